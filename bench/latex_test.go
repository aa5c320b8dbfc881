package bench

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLaTeXEscapes: a name of a custom experiment may hold every sign, and none of them is an order
// to TeX.
func TestLaTeXEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"50\u202f% of a_b":     `50\,\% of a\_b`,
		`& {$1} is × \n`:       `\& \{\$1\} is $\times$ \textbackslash{}n`,
		"--seed 5 – 6":         `-{}-seed 5 -- 6`,
		"---":                  `-{}-{}-`,
		"----":                 `-{}-{}-{}-`,
		"exec:/a#b~c":          `exec:/a\#b\textasciitilde{}c`,
		"^d|<e>":               `\textasciicircum{}d\textbar{}\textless{}e\textgreater{}`,
		`"x" “z”`:              "\\textquotedbl{}x\\textquotedbl{} ``z''",
		"`y`":                  `\textasciigrave{}y\textasciigrave{}`,
		"Größe ž":              "Größe ž",
		"中 ħ e\u0301":          "U+4E2D U+0127 eU+0301",
		"a\tb\x00d\xffe\u2028": "a b d?e ",
		"1\u00a0MiB":           "1~MiB",
	} {
		require.Equal(t, want, latex(in), in)
	}
}

// A value and what is in brackets behind it stand below each other, and so do a heading's words.
func TestLaTeXTables(t *testing.T) {
	rows := slices.Repeat([][]string{{"a_b", "1 ms [0 ms, 2 ms]"}}, rowsOfPage+1)
	var b strings.Builder
	latexTable(&b, Table{
		Caption: "100 %", Head: []string{"x", "pages in stop-and-copy"}, Rows: rows,
	})
	require.Contains(t, b.String(), `{}a\_b & \begin{tabular}[t]{@{}l@{}}{}1 ms\\{}`+
		`{\footnotesize [0 ms, 2 ms]}\end{tabular} \\`)
	require.Contains(t, b.String(),
		`{}x & \begin{tabular}[t]{@{}l@{}}{}pages in\\{}stop-and-copy\end`)
	require.Equal(t, 2, strings.Count(b.String(), `\begin{table}`), "one for each page")
	require.Contains(t, b.String(), `\caption{100 \% (part 2)}`)
}
