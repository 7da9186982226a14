"""FastAPI's telemetry is off, unless the setting says that it is on; OpenTelemetry's own works."""

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running


class Recorder(trace.NoOpTracer, trace.TracerProvider):
    """A provider of tracers, and the only one of them: it takes note of each span's name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:  # noqa: ANN401
        return self

    def start_span(self, name: str, *arguments: Any, **options: Any) -> trace.Span:  # noqa: ANN401
        self.names.append(name)
        return super().start_span(name, *arguments, **options)

    def start_as_current_span(self, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        self.names.append(name)
        return super().start_as_current_span(name, *arguments, **options)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The provider that the process has."""
    recorder = Recorder()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: recorder)
    return recorder


async def test_nothing_is_reported_by_default(settings: Settings, recorder: Recorder) -> None:
    async with running(create_app(settings)) as client:
        assert (await client.get("/heroes/")).status_code == 200
    assert recorder.names == []


async def test_a_request_is_reported_whole_where_telemetry_is_set(
    settings: Settings, recorder: Recorder
) -> None:
    reporting = settings.model_copy(update={"telemetry": True})
    async with running(create_app(reporting)) as client:
        assert (await client.get("/heroes/")).status_code == 200
    assert recorder.names[:2] == ["GET", "fastapi.dependencies"]
    assert recorder.names[-1] == "fastapi.endpoint"


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_opentelemetrys_instrumentation_reports_a_request_by_its_route_in_its_clients_trace(
    settings: Settings, prefix: str
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(settings.model_copy(update={"root_path": prefix}))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with running(app) as client:
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        assert (await client.get("/heroes/1", headers=headers)).status_code == 404
    provider.shutdown()
    span = exporter.get_finished_spans()[-1]
    assert span.name == "GET /heroes/{hero_id}"
    assert span.context is not None
    assert span.context.trace_id == int(trace_id, 16)
