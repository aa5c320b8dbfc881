package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"time"

	"taskguide/migration"
)

// span is a time in an order for a migration. It has two fields there. The older one is in
// nanoseconds, and its 0 means the default. The one in words means what it says.
type span struct {
	text, ns string // names of the fields
	of       func(*migration.Params) *time.Duration
	zero     time.Duration // what "0s" becomes in Params, where 0 is the default
	least    time.Duration // the least value of the field in nanoseconds
}

// spans are all times in an order.
var spans = []span{
	{
		text: "downtime_limit", ns: "downtime_limit_ns", zero: migration.NoTime,
		of: func(p *migration.Params) *time.Duration { return &p.DowntimeLimit },
	},
	{
		text: "policy_limit", ns: "policy_limit_ns", zero: migration.NoTime, // which is refused
		of: func(p *migration.Params) *time.Duration { return &p.PolicyLimit },
	},
	{
		text: "max_defer", ns: "max_defer_ns", zero: migration.NoTime,
		of: func(p *migration.Params) *time.Duration { return &p.MaxDefer },
	},
	{
		text: "standstill_limit", ns: "standstill_limit_ns", zero: migration.NoStandstillLimit,
		of:    func(p *migration.Params) *time.Duration { return &p.StandstillLimit },
		least: migration.NoStandstillLimit,
	},
}

// order is the body of POST /v1/migration: the fields of migration.Params and the spans in words.
// The client leaves out defaults.
//
// A VM's process may be older or newer than its client. An older client also posts fields with
// default values, so this process must keep accepting all fields that it knows. A newer client
// posts fewer fields, and those that an older process does not know only if the user asked for
// them. So unknown fields can be refused: a misspelt field, or one that the process is too old for,
// is an error and does not become a migration without the limit that somebody wanted.
type order map[string]json.RawMessage

// readParams reads exactly one JSON object, refuses unknown fields, and checks the values.
func readParams(body io.Reader) (migration.Params, error) {
	p, err := decodeOrder(body)
	if err == nil {
		p, err = p.WithDefaults()
	}
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return p, nil
}

func decodeOrder(body io.Reader) (p migration.Params, err error) {
	raw, err := io.ReadAll(body)
	if err != nil {
		return p, fmt.Errorf("migration parameters: %w", err)
	}
	in := struct {
		*migration.Params
		// The spans in words, by the names that they have in spans.
		DowntimeLimitText   *string `json:"downtime_limit"`
		PolicyLimitText     *string `json:"policy_limit"`
		MaxDeferText        *string `json:"max_defer"`
		StandstillLimitText *string `json:"standstill_limit"`
	}{Params: &p}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return p, fmt.Errorf("migration parameters: %w", orderError(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, errors.New("migration parameters: more than one JSON object")
	}
	var given order
	if err := json.Unmarshal(raw, &given); err != nil {
		return p, fmt.Errorf("migration parameters: %w", err)
	}
	texts := []*string{
		in.DowntimeLimitText, in.PolicyLimitText, in.MaxDeferText, in.StandstillLimitText,
	}
	for i, s := range spans {
		if err := s.decode(&p, texts[i], given); err != nil {
			return p, err
		}
	}
	return p, nil
}

// orderError says what is wrong with an order, without Go's names for its parts.
func orderError(err error) error {
	var other *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("nothing there: send a JSON object")
	case !errors.As(err, &other):
		return err
	case other.Field == "":
		return fmt.Errorf("%s: send a JSON object", other.Value)
	}
	use := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Bool: "true or false",
		reflect.Int: "a whole number", reflect.Int64: "a whole number",
	}[other.Type.Kind()]
	field := other.Field[strings.LastIndexByte(other.Field, '.')+1:]
	return fmt.Errorf("%s: %s: use %s", field, other.Value, use)
}

// decode enters a span into p, in which every other field is already read.
func (s span) decode(p *migration.Params, text *string, given order) error {
	value := s.of(p)
	switch {
	case text == nil && *value < s.least:
		return fmt.Errorf("%s: %d is negative", s.ns, int64(*value))
	case text == nil:
		return nil
	case given.has(s.ns):
		return fmt.Errorf("%s and %s mean the same: use one of them", s.text, s.ns)
	}
	d, err := time.ParseDuration(*text)
	if err != nil || d < 0 {
		return fmt.Errorf("%s: %q is no time: use one as 300ms, 1m30s or 0s", s.text, *text)
	}
	if *value = d; d == 0 {
		*value = s.zero
	}
	return nil
}

// has tells whether a field is present, by package json's rules for names.
func (o order) has(field string) bool {
	for name := range o {
		if strings.EqualFold(name, field) {
			return true
		}
	}
	return false
}

// newOrder returns the order to post for p. It has every field that is not the default, or that
// p.WithDefaults refuses.
func newOrder(p migration.Params) (order, error) {
	filled, err := p.WithDefaults()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// Some defaults depend on the policy and the guidance.
	likely := migration.Params{Destination: p.Destination, Rule: p.Rule, Guidance: p.Guidance}
	least := migration.Params{Destination: p.Destination}
	o, err := encode(filled)
	if err != nil {
		return nil, err
	}
	defaults, err := encodeDefaults(likely)
	if err != nil {
		return nil, err
	}
	general, err := encodeDefaults(least)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"rule", "guidance"} {
		defaults[name] = general[name]
	}
	delete(defaults, "destination")
	for name, value := range defaults {
		if bytes.Equal(o[name], value) {
			delete(o, name)
		}
	}
	for _, s := range spans {
		if zero := *s.of(&filled) == s.zero; zero && s.zero < s.least {
			delete(o, s.ns)
			o[s.text] = json.RawMessage(`"0s"`)
		}
	}
	return o, nil
}

func encodeDefaults(p migration.Params) (order, error) {
	p, err := p.WithDefaults()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return encode(p)
}

func encode(p migration.Params) (o order, err error) {
	b, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return nil, fmt.Errorf("encode the order: %w", err)
	}
	return o, nil
}

// inOlderWords returns the same order for a process that knows neither spans in words nor the
// permission for plain text. It writes a zero as one nanosecond, because 0 means the default there,
// and leaves the permission out, because an older process sends plain text anywhere. It returns nil
// if the order would not change.
func (o order) inOlderWords() order {
	older, changed := maps.Clone(o), o.has("insecure")
	delete(older, "insecure")
	for _, s := range spans {
		if older.has(s.text) {
			delete(older, s.text)
			older[s.ns], changed = json.RawMessage("1"), true
		}
	}
	if !changed {
		return nil
	}
	return older
}
