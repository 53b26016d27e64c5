"""Whether the Hugging Face Hub can be reached: what data, models and the doctor ask before they wait for it."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

PROBE_SECONDS = 8.0


def reachable() -> bool:
    """Whether the Hub gives any answer within eight seconds; asks through the session that downloads use (proxies)."""
    from huggingface_hub import constants, get_session

    answers = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS))
        except Exception:  # requests, httpx and httpx2, by version of huggingface_hub, have no common base
            log.debug("no answer from %s", constants.ENDPOINT, exc_info=True)

    # In a thread, because the timeout holds for each of the Hub's addresses, and a firewall can swallow all of them.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)
