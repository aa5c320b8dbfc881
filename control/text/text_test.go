package text

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestWrap(t *testing.T) {
	require.Equal(t, []string{""}, Wrap("", 10))
	require.Equal(t, []string{"one two", "three"}, Wrap(" one two  three ", 8))
	require.Equal(t, []string{"a", strings.Repeat("b", 20), "c"},
		Wrap("a "+strings.Repeat("b", 20)+" c", 8), "a word is not cut")
	require.Equal(t, []string{"äöü äöü"}, Wrap("äöü äöü", 7), "letters, not bytes")
	require.Equal(t, []string{"one", "two 3"}, Wrap("one two"+Glue+"3", 8))
}

func TestHanging(t *testing.T) {
	var out strings.Builder
	Hanging(&out, "  head  ", strings.Repeat("word ", 20))
	require.Equal(t, "  head  "+strings.Repeat("word ", 13)+"word\n"+
		"        word word word word word word\n", out.String())
	out.Reset()
	Hanging(&out, "head ", "")
	require.Equal(t, "head\n", out.String())
}

func TestTable(t *testing.T) {
	var out strings.Builder
	require.NoError(t, Table(&out, []string{"a", "bb"}, [][]string{{"1", "2"}, {"333", "4"}}))
	require.Equal(t, "a    bb\n1    2\n333  4\n", out.String())

	out.Reset()
	wide := strings.Repeat("ä", 30)
	require.NoError(t, Table(&out, []string{"way", "time", "bytes"},
		[][]string{{"one", wide, wide + " " + wide}, {"two", "1", "2"}}))
	require.Equal(t, "way: one\n  time   "+wide+"\n  bytes  "+wide+" "+wide+"\n"+
		"way: two\n  time   1\n  bytes  2\n", out.String())
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), Columns+1, line)
	}

	out.Reset()
	long := wide + " " + wide
	require.NoError(t, Table(&out, []string{"way", "time"}, [][]string{{long + " " + long, "1"}}))
	require.Equal(t, "way: "+long+"\n     "+long+"\n  time  1\n", out.String())

	out.Reset()
	exact := strings.Repeat("x", Columns-3)
	require.NoError(t, Table(&out, []string{"a", "b"}, [][]string{{"1", exact}}))
	require.Equal(t, "a  b\n1  "+exact+"\n", out.String())
}

func TestPlural(t *testing.T) {
	require.Equal(t, "0 trials", Plural(0, "trial"))
	require.Equal(t, "1 time", Plural(1, "time"))
	require.Equal(t, "2 times", Plural(int64(2), "time"))
}

// TestShellWord: a word stays one, and nothing in it is a shell's.
func TestShellWord(t *testing.T) {
	for s, want := range map[string]string{
		"bench-tagging-1": "bench-tagging-1", "": "''", "a b": "'a b'", "$HOME": "'$HOME'",
		"~/x": "'~/x'", "it's": `'it'\''s'`, "x;y": "'x;y'",
	} {
		require.Equal(t, want, ShellWord(s))
	}
}
