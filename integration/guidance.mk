# What task guidance gains, measured: see guided_offsets_test.go.

TAGS := $(TAGS),guidance

.PHONY: test-guidance
test-guidance: preflight ## a migration at ten points of a guest's cycle in every way: pages left to stop-and-copy
	$(GOTEST) -timeout 40m -tags guidance -count=1 -parallel 1 -v -run 'TestOffsets|TestLongSuspension' ./integration
