"""What a CUDA error means for us: this call failed, memory is short, or the device is gone."""

from __future__ import annotations

from app.backends.cuda.driver import OutOfDeviceMemory
from app.errors import DeviceLost, EngineError

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

# After one of these every further call on the context fails too, until the process ends. By number (CUresult) for
# libraries that give one, by the driver's own words (cuGetErrorString) for those that give only text.
STICKY = {
    4: "driver shutting down",
    100: "no cuda-capable device is detected",
    214: "uncorrectable ecc error encountered",
    220: "uncorrectable nvlink error detected during the execution",
    226: "invalid access of peer gpu memory over nvlink or a hardware error",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    810: "the mps client has been terminated by the server",
    911: "an async error has occured in external entity outside of cuda",  # the driver's spelling
    999: "unknown error",
}


def device_error(doing: str, text: str, *, code: int | None = None) -> EngineError:
    """The error to raise when `doing` something failed with the driver's `text`, and `code` where it is known.

    TensorRT's log lines will do as text: they quote the driver.
    """
    said = text.lower()
    if code == OUT_OF_MEMORY or (code is None and "out of memory" in said):
        return OutOfDeviceMemory(f"{doing} failed: {text}")
    if code in STICKY or (code is None and any(words in said for words in STICKY.values())):
        return DeviceLost(f"the device was lost while {doing}: {text}")
    return EngineError(f"{doing} failed: {text}")
