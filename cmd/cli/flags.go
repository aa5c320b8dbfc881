package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taskguide/control/units"
)

// Size is a size in bytes with K, M, G or T.
type Size struct {
	Bytes int64
	text  string
}

func NewSize(text string) Size {
	var f Size
	if err := f.Set(text); err != nil {
		panic(err) // one of our own defaults
	}
	return f
}

func (f *Size) String() string { return f.text }

func (f *Size) Type() string { return "size" }

func (f *Size) Set(s string) error {
	n, err := units.ParseBytes(s)
	if err == nil {
		f.Bytes, f.text = n, s
	}
	return err
}

// Rate is a rate in bit/s with kbit, Mbit or Gbit.
type Rate struct {
	BitsPerSecond int64
	text          string
}

func (f *Rate) String() string { return f.text }

func (f *Rate) Type() string { return "rate" }

func (f *Rate) Set(s string) error {
	n, err := units.ParseBitRate(s)
	if err == nil {
		f.BitsPerSecond, f.text = n, s
	}
	return err
}

// durationFlag is a duration that is not negative.
type durationFlag struct{ value *time.Duration }

// DurationVar defines a flag for a duration.
func DurationVar(
	f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string,
) {
	*p = value
	f.Var(durationFlag{p}, name, usage)
}

func (f durationFlag) Type() string { return "duration" }

func (f durationFlag) String() string {
	if f.value == nil || *f.value == 0 {
		return "0" // help leaves it out; pflag calls String on a zero value to learn it
	}
	return f.value.String()
}

func (f durationFlag) Set(s string) error {
	d, err := units.ParseDuration(s)
	if err == nil {
		*f.value = d
	}
	return err
}

// Durations is a list of durations, none of them negative, with commas between them.
type Durations struct{ Values []time.Duration }

func (f *Durations) String() string {
	var all []string
	for _, d := range f.Values {
		all = append(all, d.String())
	}
	return strings.Join(all, ",")
}

// Type is what help shows behind the flag.
func (f *Durations) Type() string { return "D[,D]..." }

// Set reads the list.
func (f *Durations) Set(s string) error {
	f.Values = nil
	for text := range strings.SplitSeq(s, ",") {
		d, err := units.ParseDuration(text)
		if err != nil {
			return err
		}
		f.Values = append(f.Values, d)
	}
	return nil
}

// Choice is one of several words. The first one is the default.
type Choice[T ~string] struct {
	Value T
	words []T
}

func Choose[T ~string](words ...T) Choice[T] { return Choice[T]{words[0], words} }

func (c *Choice[T]) String() string { return string(c.Value) }

// Type is what help shows behind the flag: the words, if they leave room for the flag's text.
func (c *Choice[T]) Type() string {
	if words := strings.Join(c.all(), "|"); len(words) <= 20 {
		return words
	}
	return "word"
}

// List is for the help of a flag with too many words for its Type.
func (c *Choice[T]) List() string { return "one of " + strings.Join(c.all(), ", ") }

func (c *Choice[T]) Set(s string) error {
	for _, w := range c.words {
		if s == string(w) {
			c.Value = w
			return nil
		}
	}
	return Unknown(s, c.all())
}

// all are the words that the flag takes.
func (c *Choice[T]) all() []string {
	var words []string
	for _, w := range c.words {
		words = append(words, string(w))
	}
	return words
}

// refuseEmpty refuses flags with an empty value, for instance from a script's unset variable. If
// they counted as left out, vmm would boot a guest instead of waiting for one, or use no TLS. Only
// a guest's command line may be empty.
func refuseEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" && f.Name != "cmdline" {
			err = Usagef("--%s: nothing there: give it a value, or leave it out", f.Name)
		}
	})
	return err
}

// flagError puts an error of pflag's into our own words: which flag, what is wrong, what to do.
func flagError(cmd *cobra.Command, err error) error {
	help := "see " + cmd.CommandPath() + " --help"
	var (
		value   *pflag.InvalidValueError
		other   *pflag.NotExistError
		missing *pflag.ValueRequiredError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &value):
		return Usagef("--%s: %w", value.GetFlag().Name, valueError(value))
	case errors.As(err, &missing):
		return Usagef("--%s: no value given: %s", missing.GetSpecifiedName(), help)
	case errors.As(err, &syntax):
		return Usagef("%q is no flag: %s", syntax.GetSpecifiedFlag(), help)
	case errors.As(err, &other):
		typed := "--" + other.GetSpecifiedName()
		if short := other.GetSpecifiedShortnames(); short != "" {
			typed = "-" + short
		}
		if near := Nearest(strings.TrimLeft(typed, "-"), flagNames(cmd)); near != "" {
			return Usagef("unknown flag %s: did you mean --%s?", typed, near)
		}
		return Usagef("unknown flag %s: %s", typed, help)
	}
	return Usagef("%w: %s", err, help)
}

// valueError says what is wrong with a flag's value. Our own types say so themselves.
func valueError(e *pflag.InvalidValueError) error {
	use := map[string]string{
		"int": "a whole number", "uint64": "a whole number from 0", "bool": "true or false",
	}[e.GetFlag().Value.Type()]
	switch {
	case use == "":
		return e.Unwrap()
	case errors.Is(e, strconv.ErrRange):
		return fmt.Errorf("%q is too large: use a smaller number", e.GetValue())
	}
	return fmt.Errorf("%q: use %s", e.GetValue(), use)
}

// flagNames are the flags that a command's help lists.
func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// Words is a list of known words, with commas between them.
type Words struct {
	Values []string
	known  []string
}

// WordsOf makes a flag for a list of some of these words.
func WordsOf(known []string) Words { return Words{known: known} }

func (f *Words) String() string { return strings.Join(f.Values, ",") }

// Type is what help shows behind the flag.
func (f *Words) Type() string { return "WORD[,WORD]..." }

// Set reads the list.
func (f *Words) Set(s string) error {
	f.Values = nil
	for word := range strings.SplitSeq(s, ",") {
		if !slices.Contains(f.known, word) {
			return Unknown(word, f.known)
		}
		f.Values = append(f.Values, word)
	}
	return nil
}

// all are the words that the flag takes.
func (f *Words) all() []string { return f.known }
