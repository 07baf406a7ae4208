"""The GPU's readings: what NVML tells, what it does not, and who shuts it down."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.backends.cuda.nvml import GpuSampler, open_nvml
from app.types import GpuSnapshot

PLACE = "0000:31:00.0"


class NVMLError(Exception):
    pass


class FakeNvml:
    """The functions of `pynvml` that are called, for GPUs at `places`; those in `refused` raise NVMLError."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, *refused: str, places: tuple[str, ...] = ("0000:17:00.0", PLACE)) -> None:
        self.refused = set(refused)
        self.places = places
        self.calls: list[str] = []
        self.throttled = 0x1

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            object.__getattribute__(self, "calls").append(name)
            if name in object.__getattribute__(self, "refused"):
                return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:
        if place not in self.places:
            raise NVMLError("Not Found")
        return place

    def nvmlDeviceGetIndex(self, handle: str) -> int:
        return self.places.index(handle)

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA L4"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return "GPU-1"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetDecoderUtilization(self, handle: str) -> list[int]:
        return [64, 166666]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(total=24 << 30, used=3 << 30, free=21 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 61_250

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        return 58

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 57

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1905

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.throttled

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return 0x4


def refuse(*arguments: object) -> None:
    raise NVMLError("Not Supported")


def sampler(nvml: FakeNvml, *places: str) -> GpuSampler:
    return GpuSampler(places or (PLACE,), load=lambda: nvml)


def test_a_reading_is_in_base_units_and_by_nvml_s_own_number() -> None:
    assert sampler(FakeNvml()).sample() == (
        GpuSnapshot(
            index=1,
            name="NVIDIA L4",
            uuid="GPU-1",
            utilization_ratio=0.37,
            decoder_utilization_ratio=0.64,
            memory_used_bytes=3 << 30,
            memory_total_bytes=24 << 30,
            power_watts=61.25,
            temperature_celsius=58.0,
            sm_clock_mhz=1905.0,
            throttle_reasons=(),
        ),
    )


def test_what_slows_the_gpu_down_has_a_name() -> None:
    nvml = FakeNvml()
    nvml.throttled = 0x1 | 0x4 | 0x40
    assert sampler(nvml).sample()[0].throttle_reasons == ("sw_power_cap", "hw_thermal_slowdown")


def test_what_is_not_supported_is_none_and_the_rest_is_there() -> None:
    nvml = FakeNvml("nvmlDeviceGetPowerUsage", "nvmlDeviceGetDecoderUtilization", "nvmlDeviceGetUtilizationRates")
    (gpu,) = sampler(nvml).sample()
    assert (gpu.power_watts, gpu.decoder_utilization_ratio, gpu.utilization_ratio) == (None, None, None)
    assert (gpu.memory_total_bytes, gpu.temperature_celsius) == (24 << 30, 58.0)


def test_an_older_driver_is_asked_by_the_older_names() -> None:
    nvml = FakeNvml("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons")
    (gpu,) = sampler(nvml).sample()
    assert (gpu.temperature_celsius, gpu.throttle_reasons) == (57.0, ("sw_power_cap",))


def test_a_gpu_that_fell_off_the_bus_reads_as_nothing() -> None:
    nvml = FakeNvml()
    gpus = sampler(nvml)
    assert gpus.sample()
    nvml.refused = {name for name in dir(FakeNvml) if name.startswith("nvmlDevice")}
    (gpu,) = gpus.sample()
    assert gpu.index == 1
    readings = {getattr(gpu, name) for name in GpuSnapshot.__slots__ if name != "index"}
    assert readings == {None}


def no_package() -> Any:
    raise ModuleNotFoundError("No module named 'pynvml'")


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        (no_package, "No module named 'pynvml'; pip install nvidia-ml-py"),
        (lambda: FakeNvml("nvmlInit"), "Not Supported"),
        (lambda: FakeNvml(places=()), "Not Found"),
    ],
)
def test_without_nvml_there_are_no_readings_and_one_line_says_why(
    load: Callable[[], Any], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = GpuSampler((PLACE,), load=load)
    assert [gpus.sample() for _ in range(3)] == [(), (), ()]
    assert caplog.messages == [f"the GPU's load is not measured: {sentence}"]
    gpus.close()


def test_nvml_is_opened_by_the_first_reading_and_shut_down_once() -> None:
    nvml = FakeNvml()
    with sampler(nvml) as gpus:
        assert nvml.calls == []
        gpus.sample()
        gpus.sample()
    gpus.close()
    assert (nvml.calls.count("nvmlInit"), nvml.calls.count("nvmlShutdown")) == (1, 1)
    assert gpus.sample() == ()
    assert nvml.calls.count("nvmlInit") == 1


def test_nvml_is_shut_down_when_it_does_not_know_the_gpu() -> None:
    nvml = FakeNvml()
    assert sampler(nvml, "0000:99:00.0").sample() == ()
    assert nvml.calls.count("nvmlShutdown") == 1


def test_a_sampler_that_never_read_has_nothing_to_shut_down() -> None:
    nvml = FakeNvml()
    sampler(nvml).close()
    assert nvml.calls == []


def test_a_gpu_that_cuda_does_not_show_has_no_readings(caplog: pytest.LogCaptureFixture) -> None:
    with open_nvml(63) as gpus:
        assert gpus.sample() == ()
    assert caplog.messages == []
