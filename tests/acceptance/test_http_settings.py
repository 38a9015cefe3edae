"""A worker whose HTTP settings stop working says so in the records of its jobs."""

from pathlib import Path

from penstock.client import Client
from penstock.local.embedded_redis import EmbeddedRedis
from penstock.local.stack import SIMULATOR_KEY, WorkerProcess
from penstock.simulator.control import Control
from penstock.testing import wait_until
from tests.contract.batch_api import params


def test_a_certificate_file_that_is_removed_pauses_a_job_and_resume_continues_it(
    penstock_redis: EmbeddedRedis, penstock_control: Control, tmp_path: Path
) -> None:
    certificates = tmp_path / "certificates.pem"
    certificates.write_bytes(Path(_system_certificates()).read_bytes())
    env = {
        "PENSTOCK_REDIS_URL": penstock_redis.url,
        "PENSTOCK_KEY_PREFIX": "http",
        "PENSTOCK_POLL_INTERVAL_MIN_S": "0.1",
        "ANTHROPIC_BASE_URL": penstock_control.base_url,
        "ANTHROPIC_API_KEY": SIMULATOR_KEY,
        "SSL_CERT_FILE": str(certificates),
        "C_FORCE_ROOT": "1",
    }
    worker = WorkerProcess("batches", env=env, name="http-settings").launch()
    client = Client(penstock_redis.url, key_prefix="http")
    batches = client.messages.batches
    try:
        worker.wait_until_ready()
        removed = certificates.rename(tmp_path / "removed.pem")
        job = batches.create(requests=[{"custom_id": "a", "params": params()}])
        wait_until(lambda: batches.retrieve(job.id).paused)
        paused = batches.retrieve(job.id).paused
        assert paused is not None
        assert paused.type == "http_settings"
        assert paused.message.startswith(f"SSL_CERT_FILE: {certificates} cannot be read")
        removed.rename(certificates)
        batches.resume(job.id)
        assert batches.wait(job.id, timeout=30).request_counts.succeeded == 1
    finally:
        client.close()
        worker.kill()
        worker.stop()


def _system_certificates() -> str:
    import ssl

    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.openssl_cafile
