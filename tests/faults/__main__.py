"""Write the page of the faults anew."""

from tests.faults.catalogue import PAGE, page

PAGE.write_text(page())
