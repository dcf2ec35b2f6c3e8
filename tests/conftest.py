"""That this file exists puts its folder on the path, so that tests in every folder can import `golden`."""
