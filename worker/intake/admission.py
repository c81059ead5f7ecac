"""What is to become of a delivery: judged at once, without I/O, for every input there is."""

from collections.abc import Callable, Collection

from taskq.app import TaskQ
from taskq.errors import DecodeError, NotRegistered, UntrustedMessage, WorkerLostError
from taskq.run.ends import Inadmissible
from taskq.seams.exchanges import reaches
from taskq.wire.message import Delivery, Message
from taskq.wire.protocol import decode
from taskq.wire.repr import saferepr
from taskq.wire.request import Request
from taskq.wire.signing import sent_to, verify
from taskq.worker.run.job import Job
from taskq.worker.run.places import place_of


class Admission:
    """Judges deliveries for one app."""

    def __init__(self, app: TaskQ, now: Callable[[], float]) -> None:
        self._app = app
        self._now = now
        self._accept: Collection[str] = frozenset(app.conf.accept_content)

    def judge(self, delivery: Delivery) -> Job | Inadmissible:
        """A job that can be run, or why the message never can."""
        conf = self._app.conf
        message = delivery.message
        try:
            self._verify(delivery)
        except UntrustedMessage as error:
            return Inadmissible(delivery, error, f"{type(error).__name__}: {error}")
        if delivery.deaths >= conf.max_deaths:
            reason = f"{delivery.deaths} workers died while they held it"
            return Inadmissible(delivery, WorkerLostError(reason), reason, self._readable(delivery))
        if len(message.body) > conf.max_message_bytes:
            reason = f"its body has {len(message.body)} bytes, max_message_bytes is {conf.max_message_bytes}"
            return Inadmissible(delivery, DecodeError(reason), reason)
        try:
            request = self._read(message)
        except DecodeError as error:
            return Inadmissible(delivery, error, f"{type(error).__name__}: {error}")
        task = self._app.find_task(request.task)
        if task is None:
            return Inadmissible(
                delivery, NotRegistered(request.task), f"no task {request.task!r} here", request
            )
        # Only the consumer knows: what travels in the headers is one broker's mark, and the first delivery's.
        request.delivery_info["redelivered"] = delivery.redelivered
        job = Job(delivery, request, task, place_of(request, task, conf))
        if request.eta is not None:
            due = request.eta.timestamp()
            if due > self._now():
                job.due = due
        return job

    def _verify(self, delivery: Delivery) -> None:
        """Raise UntrustedMessage unless it was signed, and for the queue it comes from."""
        secrets = self._app.conf.security_secrets
        verify(delivery.message, secrets)
        if not secrets:
            return
        exchange, key, _ = sent_to(delivery.message)
        sent = Message({}, b"", exchange=exchange, routing_key=key)
        queue = self._app.router.queue(delivery.queue)
        if key != queue.name if not exchange else not reaches(sent, queue):
            where = saferepr((exchange, key), 120)
            raise UntrustedMessage(
                f"refused: it was signed for {where}, which does not lead to queue {delivery.queue} (security_secrets)"
            )

    def _readable(self, delivery: Delivery) -> Request | None:
        """The request of a message that is refused for another reason: who waits for it is to learn of that."""
        try:
            return self._read(delivery.message)
        except DecodeError:
            return None

    def _read(self, message: Message) -> Request:
        conf = self._app.conf
        return decode(
            message, self._accept, max_inflated=conf.max_inflated_bytes, max_values=conf.max_message_values
        )
