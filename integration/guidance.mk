# Measures what task guidance gains; guided_offsets_test.go has the test.

TAGS := $(TAGS),guidance

.PHONY: test-guidance
test-guidance: preflight ## pages left to stop-and-copy at ten points of a cycle, in every way
	$(GOTEST) -timeout 40m -tags guidance -parallel 1 -v \
		-run 'TestOffsets|TestLongSuspension' ./integration
