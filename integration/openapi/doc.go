// Package openapi shows that programs can use the description of the control socket: a client
// generated from docs/openapi.yaml starts a migration and watches it.
//
// It is its own module, so that the generator and its dependencies stay out of the project's. make
// openapi-client generates the client and runs the test, with the vmm that VMM_BIN names.
package openapi

//go:generate go tool oapi-codegen -config config.yaml ../../docs/openapi.yaml
