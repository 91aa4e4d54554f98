"""`nanochat serve`: its flags, and the parts of a server made from them."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from dataclasses import dataclass, replace

import torch

from nanochat.bounds import require_positive
from nanochat.checkpoint.loading import find_model
from nanochat.checkpoint.store import load_meta
from nanochat.console import say, warn
from nanochat.errors import EnvironmentFault
from nanochat.export.hub_models import local_run
from nanochat.flags import ModelTag
from nanochat.hardware import memory
from nanochat.infer.frozen import WeightsName
from nanochat.infer.sampler import CHAT_SAMPLING, SamplingParams
from nanochat.paths import CHAT_RUN, Paths
from nanochat.runtime import Runtime, open_runtime
from nanochat.serve.application import make_app
from nanochat.serve.catalogue import Catalogue
from nanochat.serve.guard import Access, check_names
from nanochat.serve.http_server import Server, listening
from nanochat.serve.limits import Limits
from nanochat.serve.pool import ModelPool, PoolSettings
from nanochat.serve.service import Service
from nanochat.serve.telemetry import Telemetry

_SHARE_OF_MEMORY = 0.5
"""Of what is available at the start, for models, unless --memory says how much."""


@dataclass(frozen=True)
class ServeConfig:
    """What to serve, who may ask, and limits."""

    model_tag: ModelTag = CHAT_RUN
    """The run that answers requests that name none: its model tag, or the path of its checkpoints; RUN@STEP for an
    older step. Others of the base directory are loaded when a request names them."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0: all, so that other machines can ask."""
    port: int = 8000
    """0 chooses a free one."""
    api_key: str | None = None
    """Refuse requests without this key (Authorization: Bearer KEY)."""
    allow_host: tuple[str, ...] = ()
    """Further names under which clients reach this server, for example behind a proxy; *: any."""
    cors_origin: tuple[str, ...] = ()
    """Other origins whose web pages may ask, for example https://example.org; *: all."""
    system: str | None = None
    """The page's system prompt."""
    temperature: float = CHAT_SAMPLING.temperature
    """This, --top-k, --top-p and --max-new-tokens apply to requests that do not say."""
    top_k: int | None = CHAT_SAMPLING.top_k
    top_p: float = CHAT_SAMPLING.top_p
    max_new_tokens: int = CHAT_SAMPLING.max_new_tokens
    max_tokens: int | None = None
    """Limit of max_tokens of a request; None: the model's context."""
    max_rows: int = 16
    """Answers that each model generates at once; memory for all is allocated when it is loaded."""
    max_waiting: int = 64
    """Answers that may wait for each model; further requests get 429."""
    max_seconds: float = 300.0
    """Limit of an answer, once its request has arrived and its model is loaded."""
    max_body_bytes: int = 2**20
    """Largest request, in bytes; a larger one is refused."""
    max_messages: int = 512
    """Most messages of a request."""
    memory: float | None = None
    """GB for models, on a CPU of all replicas together; idle ones make room. None: half of what is available."""
    replicas: int = 1
    """Processes behind the one port, on a machine with several GPUs one each."""
    log_requests: bool = False
    """Also log the bodies of requests."""
    weights: WeightsName = "fp32"
    """How matrices are stored on a CPU, as in `nanochat chat`."""
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class ServeResult:
    """Where the server was."""

    url: str
    model_tag: str


def run(config: ServeConfig, paths: Paths) -> ServeResult:
    """Serve until SIGTERM or SIGINT.

    Raises ValueError for a missing model and invalid settings, OSError if the port is taken.
    """
    from nanochat.serve.replicas import run_replicas

    _check(config)
    config = replace(config, model_tag=local_run(config.model_tag, paths))
    directory, step = find_model(config.model_tag, paths)
    if step is not None:
        load_meta(directory, step)
    with listening(config.host, config.port) as listener:
        url = f"http://{_shown_host(config.host)}:{listener.getsockname()[1]}"
        say(f"{config.model_tag} on {url} (the page), {url}/v1 (the API). Ctrl-C stops.")
        if config.api_key is None and not _is_loopback(listener):
            warn("every machine that reaches this address can ask: set --api-key to prevent that")
        if config.replicas > 1:
            run_replicas(config, paths, listener)
        else:
            serve(config, paths, listener)
    return ServeResult(url, config.model_tag)


def serve(config: ServeConfig, paths: Paths, listener: socket.socket) -> None:
    """Serve with this process. Raises EnvironmentFault if the default model cannot be loaded."""
    _log_to_stderr()
    with open_runtime(config.device, config.dtype, paths) as runtime:
        service = make_service(config, runtime)
        server = Server(service, make_app(service, access(config), paths))
        server.run([listener])
    if service.pool.load_fault is not None:
        raise EnvironmentFault(f"{config.model_tag} cannot be loaded: {service.pool.load_fault}")


def make_service(config: ServeConfig, runtime: Runtime) -> Service:
    """The parts of the app for a config. Raises ValueError for a missing model and invalid settings."""
    directory, step = find_model(config.model_tag, runtime.paths)
    directory = directory.resolve()
    model = directory.name if step is None else f"{directory.name}@{step}"
    catalogue = Catalogue(runtime.paths, {directory.name: directory})
    telemetry = Telemetry()
    limits = Limits(config.max_body_bytes, config.max_messages, config.max_tokens, config.max_seconds)
    budget = _SHARE_OF_MEMORY * _available_bytes(runtime) if config.memory is None else config.memory * 1e9
    if runtime.device.type != "cuda":  # where each replica has a GPU of its own
        budget /= config.replicas
    settings = PoolSettings(
        int(budget), config.max_rows, config.max_waiting, limits.buffered_events, config.weights
    )
    pool = ModelPool(runtime, catalogue, settings, telemetry.observer)
    return Service(pool, telemetry, limits, model, _defaults(config), config.system)


def access(config: ServeConfig) -> Access:
    """Who may ask."""
    return Access(config.api_key, (*config.allow_host, config.host), config.cors_origin, config.log_requests)


def _defaults(config: ServeConfig) -> SamplingParams:
    return SamplingParams(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
    )


def _check(config: ServeConfig) -> None:
    _defaults(config)
    least = {
        "max_rows": 1,
        "max_waiting": 0,
        "max_messages": 1,
        "max_body_bytes": 1,
        "replicas": 1,
        "max_tokens": 1,
        "memory": 0,
        "port": 0,
    }
    for name, bound in least.items():
        value = getattr(config, name)
        if value == math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be finite, not inf")
        if value is not None and not value >= bound:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")
    require_positive(config, "max_seconds")
    check_names(config.allow_host, config.cors_origin)
    if config.api_key == "":
        raise ValueError("--api-key is empty")
    gpus = torch.cuda.device_count()
    if config.replicas > 1 and gpus and config.device in ("auto", "cuda") and config.replicas > gpus:
        raise ValueError(f"--replicas {config.replicas}, but there are {gpus} GPUs")


def _available_bytes(runtime: Runtime) -> int:
    if runtime.device.type == "cuda":
        return torch.cuda.mem_get_info(runtime.device)[0]
    return memory().available


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _shown_host(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown


def _log_to_stderr() -> None:
    log = logging.getLogger("nanochat.serve")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
