"""Results in the order of the items, and hardly ahead of who takes them."""

from concurrent.futures import Future

from scoreonce.stages.cluster.ordered import in_order


def test_results_come_in_order_and_hardly_ahead():
    begun = []

    def submit(item):
        begun.append(item)
        done = Future()
        done.set_result(item * item)
        return done

    results = in_order(submit, range(10), 3)
    assert next(results) == 0
    assert begun == [0, 1, 2]
    assert list(results) == [n * n for n in range(1, 10)]
