"""The rows of the dashboard "Fleet" that show the engine, the GPU, the clients and the process."""

from __future__ import annotations

from scripts.grafana.expressions import mean, rate
from scripts.grafana.panels import Panel, Query
from scripts.grafana.shared import SERVICE, row

BATCHES = row(
    "Batches",
    Panel(
        title="Batch size",
        description="How many batches a second held how many frames.",
        unit="short",
        kind="heatmap",
        low=None,
        queries=[
            Query(expr=f"sum by (le) ({rate('vidette_batch_size_bucket', SERVICE)})", legend="{{le}}", format="heatmap")
        ],
    ),
    Panel(
        title="Batch size, mean",
        description="Frames in a batch. It grows by itself when the contexts are busy.",
        unit="suffix: frames",
        queries=[Query(expr=mean("vidette_batch_size", SERVICE, by="instance"), legend="{{instance}}")],
    ),
    Panel(
        title="What closed batches",
        description="full: no more fit; context_free: a context waited for frames; delay: the longest wait was over;"
        " drain: the service stops.",
        unit="suffix: batches/s",
        stack=True,
        queries=[Query(expr=f"sum by (reason) ({rate('vidette_batch_close_total', SERVICE)})", legend="{{reason}}")],
    ),
    Panel(
        title="Contexts busy",
        description="Batches in flight, and how many can be; looked at once a scrape. All of them, all the time, is a"
        " full engine.",
        unit="short",
        width=12,
        queries=[
            Query(expr=f"sum by (instance) (vidette_contexts_busy{{{SERVICE}}})", legend="{{instance}} busy"),
            Query(expr=f"sum by (instance) (vidette_contexts{{{SERVICE}}})", legend="{{instance}} contexts"),
        ],
    ),
    Panel(
        title="Models",
        description="The model that each service runs, its precision and its backend.",
        unit="short",
        kind="table",
        width=12,
        low=None,
        queries=[
            Query(
                expr=f"max by (instance, model, precision, backend, sha256) (vidette_model_info{{{SERVICE}}})",
                format="table",
                instant=True,
            )
        ],
        transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}],
    ),
)

CAPACITY = row(
    "Capacity",
    Panel(
        title="Capacity left, by part",
        description="The share that is still free of inference, of the processor cores for decoding, and of NVDEC. The"
        " scarcest decides whether one more camera fits; GET /api/v1/capacity says so.",
        unit="percentunit",
        high=1,
        width=6,
        queries=[
            Query(expr=f"instance:vidette_capacity_left:ratio{{{SERVICE}}}", legend="{{instance}} {{part}}"),
        ],
    ),
    Panel(
        title="Inference: used, and the limit",
        description="Frames a second inferred, and what the engine alone can infer, measured at start-up.",
        unit="suffix: fps",
        width=6,
        queries=[
            Query(
                expr=f'sum by (instance) (vidette_camera_fps{{{SERVICE}, kind="inferred"}})', legend="{{instance}} used"
            ),
            Query(expr=f"sum by (instance) (vidette_engine_capacity_fps{{{SERVICE}}})", legend="{{instance}} limit"),
        ],
    ),
    Panel(
        title="Decoding: cores used",
        description="Processor cores that software decoding keeps busy, and how many the service may use.",
        unit="suffix: cores",
        width=6,
        queries=[
            Query(expr=f"vidette_decode_cores_busy{{{SERVICE}}}", legend="{{instance}} decoding"),
            Query(expr=f"vidette_cores{{{SERVICE}}}", legend="{{instance}} cores"),
        ],
    ),
    Panel(
        title="Dropped for overload",
        description="Share of the wanted frames that are not inferred, by service. Saturated fires above 10 %.",
        unit="percentunit",
        width=6,
        queries=[Query(expr=f"instance:vidette_overload:ratio_rate5m{{{SERVICE}}}", legend="{{instance}}")],
    ),
)

GPU = row(
    "GPU (empty where there is none)",
    Panel(
        title="GPU load",
        description="Share of time in which a kernel ran, as NVML says; not how full the GPU was meanwhile.",
        unit="percentunit",
        high=1,
        queries=[Query(expr=f"vidette_gpu_utilization_ratio{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}}")],
    ),
    Panel(
        title="NVDEC load",
        description="Share of time in which the video decoders worked, all engines of a GPU together.",
        unit="percentunit",
        high=1,
        queries=[Query(expr=f"vidette_gpu_decoder_utilization_ratio{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}}")],
    ),
    Panel(
        title="GPU memory",
        description="Used by all processes of the GPU, and what there is.",
        unit="bytes",
        queries=[
            Query(expr=f"vidette_gpu_memory_used_bytes{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}} used"),
            Query(expr=f"vidette_gpu_memory_total_bytes{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}} total"),
        ],
    ),
    Panel(
        title="GPU power",
        description="Watts that the GPU draws.",
        unit="watt",
        queries=[Query(expr=f"vidette_gpu_power_watts{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}}")],
    ),
    Panel(
        title="GPU temperature",
        description="Temperature of the chip.",
        unit="celsius",
        queries=[Query(expr=f"vidette_gpu_temperature_celsius{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}}")],
    ),
    Panel(
        title="What slows the GPU down",
        description="1 for each reason that holds the clocks down now. sw_power_cap is usual at full load.",
        unit="short",
        high=1,
        queries=[
            Query(expr=f"vidette_gpu_throttled{{{SERVICE}}}", legend="{{instance}} GPU {{gpu}} {{reason}}"),
        ],
    ),
)

CLIENTS = row(
    "Clients",
    Panel(
        title="Refused tokens",
        description="Requests a second that showed no token, or one that is wrong, expired or revoked.",
        unit="suffix: /s",
        queries=[
            Query(expr=f"sum by (instance) ({rate('vidette_auth_failures_total', SERVICE)})", legend="{{instance}}")
        ],
    ),
    Panel(
        title="Connections",
        description="Open connections, WebSockets too, and those a second that were refused or cut off, by reason.",
        unit="short",
        queries=[
            Query(expr=f"vidette_http_connections{{{SERVICE}}}", legend="{{instance}}"),
            Query(
                expr=f"sum by (instance, reason) ({rate('vidette_http_connections_ended_total', SERVICE)})",
                legend="{{instance}} {{reason}}",
            ),
        ],
    ),
    Panel(
        title="Event loop",
        description="How long the event loop lets others wait, and how often it stood still for over a second. Every"
        " answer and every result passes through it.",
        unit="s",
        queries=[
            Query(expr=f"vidette_event_loop_lag_seconds{{{SERVICE}}}", legend="{{instance}} lag"),
            Query(
                expr=f"increase(vidette_event_loop_stalls_total{{{SERVICE}}}[$__rate_interval])",
                legend="{{instance}} stalls",
            ),
        ],
    ),
    Panel(
        title="WebSocket clients",
        description="Clients that are connected now.",
        unit="short",
        queries=[Query(expr=f"vidette_ws_clients{{{SERVICE}}}", legend="{{instance}}")],
    ),
    Panel(
        title="Messages sent",
        description="WebSocket messages a second, to all clients together.",
        unit="suffix: /s",
        queries=[
            Query(expr=f"sum by (instance) ({rate('vidette_ws_messages_sent_total', SERVICE)})", legend="{{instance}}")
        ],
    ),
    Panel(
        title="Messages missed",
        description="Messages a second that clients lost by reading too slowly. They were told so, nobody was slowed.",
        unit="suffix: /s",
        queries=[
            Query(
                expr=f"sum by (instance, reason) ({rate('vidette_ws_messages_dropped_total', SERVICE)})",
                legend="{{instance}} {{reason}}",
            )
        ],
    ),
    Panel(
        title="Clients closed",
        description="Connections a minute that the service ended, by close code: 1013 stood still, 1008 said too much.",
        unit="suffix: /min",
        queries=[
            Query(
                expr=f"60 * sum by (instance, code) ({rate('vidette_ws_closed_total', SERVICE)})",
                legend="{{instance}} {{code}}",
            )
        ],
    ),
    Panel(
        title="Delivery's share",
        description="Of the event loop's time, what delivery to clients may take. It falls while frames are shed.",
        unit="percentunit",
        queries=[Query(expr=f"vidette_ws_delivery_share_ratio{{{SERVICE}}}", legend="{{instance}}")],
    ),
)

PROCESS = row(
    "Process",
    Panel(
        title="Processor",
        description="Processor cores that the process keeps busy, decoding and CPU inference included.",
        unit="suffix: cores",
        queries=[Query(expr=rate("process_cpu_seconds_total", SERVICE), legend="{{instance}}")],
    ),
    Panel(
        title="Memory",
        description="Resident memory of the process.",
        unit="bytes",
        queries=[Query(expr=f"process_resident_memory_bytes{{{SERVICE}}}", legend="{{instance}}")],
    ),
    Panel(
        title="Open files",
        description="Open files and connections, and how many the system allows.",
        unit="short",
        queries=[
            Query(expr=f"process_open_fds{{{SERVICE}}}", legend="{{instance}} open"),
            Query(expr=f"process_max_fds{{{SERVICE}}}", legend="{{instance}} allowed"),
        ],
    ),
    Panel(
        title="Running since",
        description="How long the process has run. A sawtooth is a restart loop.",
        unit="s",
        width=12,
        queries=[Query(expr=f"time() - process_start_time_seconds{{{SERVICE}}}", legend="{{instance}}")],
    ),
    Panel(
        title="Garbage collections",
        description="Collections of Python's garbage collector a second, by generation.",
        unit="suffix: /s",
        width=12,
        queries=[
            Query(
                expr=f"sum by (instance, generation) ({rate('python_gc_collections_total', SERVICE)})",
                legend="{{instance}} generation {{generation}}",
            )
        ],
    ),
)
