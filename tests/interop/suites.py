"""Running the tests of others."""

import unittest


def run(case):
    """Run a class of tests; nothing may fail and nothing be skipped. Returns how many there were."""
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    tests.run(result)
    bad = [*result.failures, *result.errors, *result.skipped]
    assert not bad, "\n\n".join(f"{test}: {text}" for test, text in bad)
    return result.testsRun
