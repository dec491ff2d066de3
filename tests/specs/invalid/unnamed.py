def builds(frame):
    return frame.assign(double=2.0)
