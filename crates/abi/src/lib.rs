//! Mirror of bpf/include/event.h and the decoder of ring records.
