// Package docs holds the documents that programs serve, beside those for people.
package docs

import _ "embed"

// OpenAPI describes the control socket, as every VM's process serves it at /v1/openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
