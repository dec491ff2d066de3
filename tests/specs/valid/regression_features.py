def build(frame):
    return frame.assign(**{"size, squared": frame["size: m²"] ** 2})
