def build(frame):
    return frame.assign(
