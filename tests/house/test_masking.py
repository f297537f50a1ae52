from tests.house.masking import PAGE, written


def test_the_page_shows_the_functions_that_there_are() -> None:
    assert PAGE.read_text() == written()
