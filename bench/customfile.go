package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"taskguide/control/units"
	"taskguide/migration"
	registry "taskguide/migration/policy"
)

// mostOfFile bounds an experiment's file.
const mostOfFile = 1 << 20

// ReadCustom reads an experiment's file. Paths in it are relative to the file's folder.
func ReadCustom(path string) (Custom, error) {
	f, err := os.Open(path)
	if err != nil {
		return Custom{}, fmt.Errorf("read the experiment: %w", err)
	}
	defer f.Close()
	c, err := decodeCustom(f)
	if err != nil {
		return Custom{}, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err == nil {
		err = c.locate(dir)
	}
	if err != nil {
		return Custom{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// decodeCustom reads what a file says. Unknown keys are errors, and errors name the line.
func decodeCustom(r io.Reader) (Custom, error) {
	var c Custom
	text, err := io.ReadAll(io.LimitReader(r, mostOfFile+1))
	switch {
	case err != nil:
		return c, err
	case len(text) > mostOfFile: // what is cut off could be understood all the same
		return c, fmt.Errorf("it is longer than %d bytes", mostOfFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	switch err := d.Decode(&c); {
	case errors.Is(err, io.EOF):
		return c, errors.New("it is empty")
	case err != nil:
		return c, plainError(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return c, errors.New("there is something behind the experiment: one file has one")
	}
	c.defaults()
	return c, c.check()
}

// These are words of the library that name a type of this program.
var (
	unknownField = regexp.MustCompile(`field (.*) not found in type \S+`)
	wrongKind    = regexp.MustCompile(`cannot unmarshal (!!.*) into \S+`)
)

// plainError puts an error of the library's into one line of our own words.
func plainError(err error) error {
	text := err.Error()
	var several *yaml.TypeError
	if errors.As(err, &several) {
		text = strings.Join(several.Errors, "; ")
	}
	text = strings.TrimPrefix(text, "yaml: ")
	text = unknownField.ReplaceAllString(text, `unknown key "$1"`)
	return errors.New(migration.OneLine(wrongKind.ReplaceAllString(text, "unexpected $1")))
}

// locate makes paths absolute, and requires the files.
func (c *Custom) locate(dir string) error {
	for i := range c.Guests {
		g := &c.Guests[i]
		files := []*string{&g.Kernel, &g.Initrd}
		for j := range g.Disks {
			files = append(files, &g.Disks[j])
		}
		for _, f := range files {
			if *f == "" {
				continue
			}
			if !filepath.IsAbs(*f) {
				*f = filepath.Join(dir, *f)
			}
			if _, err := os.Stat(*f); err != nil {
				return fmt.Errorf("guest %s: %w", g.Name, err)
			}
		}
	}
	for i, p := range c.Policies {
		located, err := locateProgram(dir, p)
		if err != nil {
			return fmt.Errorf("policies: %w", err)
		}
		if c.Against == p {
			c.Against = located
		}
		c.Policies[i] = located
	}
	return nil
}

// locateProgram makes the path of a policy's program absolute. A name without a slash is looked for
// in $PATH.
func locateProgram(dir, text string) (string, error) {
	c, err := registry.Parse(text)
	if err != nil || c.Program() == "" {
		return text, err
	}
	path := c.Program()
	if strings.Contains(path, "/") && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if path, err = exec.LookPath(path); err != nil {
		return "", err
	}
	return registry.Exec + ":" + path, nil
}

// size is a number of bytes, in a file as on the command line.
type size int64

// UnmarshalYAML reads what units.ParseBytes reads.
func (s *size) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.ParseBytes(n.Value)
	*s = size(v)
	return atLine(n, err)
}

// rate is in bit/s.
type rate int64

// UnmarshalYAML reads what units.ParseBitRate reads.
func (r *rate) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.ParseBitRate(n.Value)
	if err == nil && v <= 0 {
		err = fmt.Errorf("rate %q: use more than 0", n.Value)
	}
	*r = rate(v)
	return atLine(n, err)
}

func (r rate) String() string { return rateText(int64(r)) }

// span is a duration.
type span time.Duration

// UnmarshalYAML reads what units.ParseDuration reads.
func (s *span) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.ParseDuration(n.Value)
	*s = span(v)
	return atLine(n, err)
}

// atLine adds the line of a value to an error.
func atLine(n *yaml.Node, err error) error {
	if err == nil && n.Kind != yaml.ScalarNode {
		err = errors.New("use a single value")
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", n.Line, err)
}
