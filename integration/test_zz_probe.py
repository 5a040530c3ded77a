import threading
def test_hangs():
    threading.Event().wait(110)
