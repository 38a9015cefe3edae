"""A job that is collected by hand, with a shard out of order and a retry shard."""

from tests.contract.tasks.batches.hand_made import HandMadeJob


def all_ids(count: int = 10) -> list[str]:
    """The custom_ids of a job with this number of requests, as submitted."""
    return [f"line-{i}" for i in range(count)]


def collect_all(job: HandMadeJob) -> list[str]:
    """Collect a whole job, the second shard last and one of its requests in a retry shard.

    Returns the custom_ids in the order of collection.
    """
    second = job.shards[1]
    for number in [shard.number for shard in job.shards if shard != second]:
        job.collect(number)
    job.collect(second.number, retried=[0])
    job.collect(job.shards[-1].number)
    job.end()
    shards = {shard.number: shard for shard in job.shards}
    first_round = [n for n in shards if shards[n].round == 0 and n != second.number]
    found = []
    for number in first_round:
        found += all_ids()[shards[number].first : shards[number].last + 1][::-1]
    found += all_ids()[second.first + 1 : second.last + 1][::-1]
    return [*found, all_ids()[second.first]]
