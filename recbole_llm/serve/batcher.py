"""Work that comes one by one, done some at a time on a thread of its own."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """Waits for nobody: what came while a batch was worked on is the next batch.

    So a lone request is answered at once, and the busier the service is, the less each costs.

    Args:
        work: answers a batch in its order; an exception in place of an answer is raised to the one
            who asked.
        batch_size: the most that are given to it at once.
    """

    def __init__(
        self, work: Callable[[Sequence[Asked]], Sequence[Answer | Exception]], batch_size: int
    ) -> None:
        self._work = work
        self._batch_size = batch_size
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._executor = ThreadPoolExecutor(1, "ranking")
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer, once its batch was worked on."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            n = min(len(self._waiting), self._batch_size)
            batch = [self._waiting.popleft() for _ in range(n)]
            work = loop.run_in_executor(self._executor, self._work, [asked for asked, _ in batch])
            # What fails for all of them is told to each, and the next batch is tried.
            (done,) = await asyncio.gather(work, return_exceptions=True)
            answers = [done] * n if isinstance(done, BaseException) else done
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # who asked has gone
                    continue
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
