.PHONY: openapi-client
openapi-client: build ## a client that is generated of docs/openapi.yaml moves a guest
	cd integration/openapi && $(GO) generate ./... && \
		VMM_BIN="$(CURDIR)/bin/vmm" $(GO) test -count=1 -v ./...
