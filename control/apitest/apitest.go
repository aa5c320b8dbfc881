// Package apitest checks, in tests, that answers, events and accepted requests of a control socket
// match its description, docs/openapi.yaml.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"taskguide/docs"
)

// Spec is the description, docs/openapi.yaml.
type Spec struct {
	doc    *openapi3.T
	router routers.Router
}

// Load reads the description and validates it.
func Load() (*Spec, error) {
	doc, err := openapi3.NewLoader().LoadFromData(docs.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("docs/openapi.yaml: %w", err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("docs/openapi.yaml: %w", err)
	}
	doc.Servers = nil // whatever the host is called
	router, err := legacy.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("docs/openapi.yaml: %w", err)
	}
	return &Spec{doc, router}, nil
}

// Exchange is a request and its answer.
type Exchange struct {
	Request     *http.Request
	RequestBody []byte
	Status      int
	Header      http.Header
	Body        []byte
}

// Check returns an error if an exchange differs from the description. It does not check requests
// that the server refused.
func (s *Spec) Check(x Exchange) error {
	route, params, err := s.router.FindRoute(x.Request)
	if err != nil {
		if x.Status == http.StatusNotFound || x.Status == http.StatusMethodNotAllowed {
			return s.value("Error", x.Body)
		}
		return fmt.Errorf("%s %s: %w", x.Request.Method, x.Request.URL, err)
	}
	request := &openapi3filter.RequestValidationInput{
		Request: x.Request.Clone(context.Background()), PathParams: params, Route: route,
	}
	if x.Status < 300 {
		// The server ignores the content type, and curl -d sends another one.
		request.Request.Header.Set("Content-Type", "application/json")
		request.Request.Body = io.NopCloser(bytes.NewReader(x.RequestBody))
		if err := openapi3filter.ValidateRequest(context.Background(), request); err != nil {
			return fmt.Errorf("%s %s was taken: %w", x.Request.Method, x.Request.URL, err)
		}
	}
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: request, Status: x.Status, Header: x.Header,
		Body:    io.NopCloser(bytes.NewReader(x.Body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), answer); err != nil {
		return fmt.Errorf("answer to %s %s: %w", x.Request.Method, x.Request.URL, err)
	}
	return nil
}

// Stream checks lines of server-sent events against the description.
func (s *Spec) Stream(text []byte) error {
	kind := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if k, ok := strings.CutPrefix(line, "event: "); ok {
			kind = k
			continue
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if err := s.value("Event", []byte(data)); err != nil {
			return err
		}
		var e struct{ Kind string }
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Kind != kind {
			return fmt.Errorf("event %q has the data of kind %q", kind, e.Kind)
		}
	}
	return nil
}

// value checks JSON against a schema.
func (s *Spec) value(schema string, text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	if err := s.doc.Components.Schemas[schema].Value.VisitJSON(v); err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	return nil
}

// Fields returns the properties of a schema, and those of them that it requires.
func (s *Spec) Fields(schema string) (all, required []string) {
	ref, ok := s.doc.Components.Schemas[schema]
	if !ok {
		return nil, nil
	}
	return fields(ref.Value)
}

func fields(schema *openapi3.Schema) (all, required []string) {
	for name := range schema.Properties {
		all = append(all, name)
	}
	required = slices.Clone(schema.Required)
	for _, part := range schema.AllOf {
		a, r := fields(part.Value)
		all, required = append(all, a...), append(required, r...)
	}
	slices.Sort(all)
	slices.Sort(required)
	return all, required
}

// Schemas returns the names of all schemas.
func (s *Spec) Schemas() []string {
	var names []string
	for name := range s.doc.Components.Schemas {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Operations returns the methods and paths that are described, as in "GET /v1/vm".
func (s *Spec) Operations() []string {
	var all []string
	for path, item := range s.doc.Paths.Map() {
		for method := range item.Operations() {
			all = append(all, method+" "+path)
		}
	}
	slices.Sort(all)
	return all
}
