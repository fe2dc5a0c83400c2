"""Reading, transforming and batching annotated images."""

import cv2

# Loading processes are the parallelism. OpenCV's own thread pool would contend with them, and a
# pool that exists when a worker is forked leaves the worker waiting for threads it does not have.
cv2.setNumThreads(1)
