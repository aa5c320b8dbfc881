package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"taskguide/control/text"
)

// latexHead needs no more than a common TeX distribution has.
const latexHead = `\documentclass[a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{textcomp,booktabs,graphicx,float}
% A table that is too wide is made smaller, and no other.
\newcommand{\fitted}[1]{\sbox0{#1}%
\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
`

// writeLaTeX writes a page as a document, whose tables can be copied into another.
func writeLaTeX(w io.Writer, p page) error {
	var b strings.Builder
	b.WriteString(latexHead)
	fmt.Fprintf(&b, "\\title{%s}\n\\date{}\n\\begin{document}\n\\maketitle\n\\raggedright\n",
		latex(p.Title))
	paragraph := func(text string) { fmt.Fprintf(&b, "%s\n\n", latex(text)) }
	paragraph(p.opening())
	for _, banner := range p.Banners {
		fmt.Fprintf(&b, "\\textbf{%s} %s.\n\n", latex(banner.Kind), latex(banner.Text))
	}
	latexList(&b, p.Headlines)
	latexTable(&b, p.Lead)
	if p.Command != "" {
		fmt.Fprintf(&b, "Reproduce with \\texttt{%s}.\n\n", latex(p.Command))
	}
	var facts []string
	for _, f := range p.Facts {
		facts = append(facts, f[0]+": "+f[1])
	}
	latexList(&b, facts)
	for _, s := range p.Sections {
		fmt.Fprintf(&b, "\\section*{%s}\n", latex(s.Title))
		for _, t := range s.Text {
			paragraph(t)
		}
		for _, f := range s.Figures {
			fmt.Fprintf(&b, "\\begin{figure}[H]\n\\centering\n"+
				"\\includegraphics[width=\\linewidth,height=.85\\textheight,keepaspectratio]"+
				"{%s.png}\n\\caption{%s}\n\\end{figure}\n\n",
				f.Name, latex(f.Caption))
		}
		for _, t := range s.Tables {
			latexTable(&b, t)
		}
	}
	if len(p.Failures) > 0 {
		b.WriteString("\\section*{Void trials}\n")
		latexList(&b, p.Failures)
	}
	b.WriteString("\\end{document}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func latexList(b *strings.Builder, lines []string) {
	if len(lines) == 0 {
		return
	}
	b.WriteString("\\begin{itemize}\n")
	for _, line := range lines {
		fmt.Fprintf(b, "\\item %s\n", latex(line))
	}
	b.WriteString("\\end{itemize}\n\n")
}

// rowsOfPage is how many rows a table has on one page, since TeX does not break it. A row has two
// lines where a cell has a detail.
const rowsOfPage = 24

func latexTable(b *strings.Builder, t Table) {
	part := 0
	for rows := range slices.Chunk(t.Rows, rowsOfPage) {
		caption := t.Caption
		if part++; part > 1 {
			caption += fmt.Sprintf(" (part %d)", part)
		}
		fmt.Fprintf(b, "\\begin{table}[H]\n\\centering\n\\caption{%s}\n\\fitted{%%\n"+
			"\\begin{tabular}{%s}\n\\toprule\n", latex(caption), strings.Repeat("l", len(t.Head)))
		latexRow(b, t.Head, latexHeading)
		b.WriteString("\\midrule\n")
		for _, r := range rows {
			latexRow(b, r, latexCell)
		}
		b.WriteString("\\bottomrule\n\\end{tabular}}\n\\end{table}\n\n")
	}
}

func latexRow(b *strings.Builder, cells []string, write func(string) string) {
	var written []string
	for _, c := range cells {
		written = append(written, write(c))
	}
	// A line that begins with a bracket would be an argument of the line break before it.
	fmt.Fprintf(b, "{}%s \\\\\n", strings.Join(written, " & "))
}

// latexCell writes the text in brackets behind a value below it, which makes columns narrow.
func latexCell(cell string) string {
	value, detail := valueOf(cell), detailOf(cell)
	if detail == "" {
		return latex(value)
	}
	return latexLines(latex(value), `{\footnotesize `+latex(detail)+"}")
}

// headingColumns is how wide a column's heading may be before it is broken, in letters.
const headingColumns = 14

func latexHeading(heading string) string {
	lines := text.Wrap(heading, headingColumns)
	for i, line := range lines {
		lines[i] = latex(line)
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return latexLines(lines...)
}

func latexLines(lines ...string) string {
	return `\begin{tabular}[t]{@{}l@{}}{}` + strings.Join(lines, `\\{}`) + `\end{tabular}`
}

// latex escapes text, and writes the signs of our tables as TeX knows them. Names of custom
// experiments may have letters that TeX's own fonts have not: it writes their code points.
func latex(s string) string {
	var b strings.Builder
	s = strings.ToValidUTF8(s, "?")
	for range 2 { // each second pair of three hyphens: TeX would write a pair as one dash
		s = strings.ReplaceAll(s, "--", "-\u200b-")
	}
	for _, r := range latexEscapes.Replace(s) {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			b.WriteByte(' ')
		case r > unicode.MaxASCII && !knownToTeX(r):
			fmt.Fprintf(&b, "U+%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// knownToTeX tells whether the encodings of latexHead have a letter: most of Europe's Latin ones.
func knownToTeX(r rune) bool {
	return r >= 'À' && r <= 'ž' && !strings.ContainsRune("ĦħĸĿŀŉŦŧ", r)
}

var latexEscapes = strings.NewReplacer(
	`\`, `\textbackslash{}`, "{", `\{`, "}", `\}`, "$", `\$`, "&", `\&`, "%", `\%`, "#", `\#`,
	"_", `\_`, "~", `\textasciitilde{}`, "^", `\textasciicircum{}`, "<", `\textless{}`,
	">", `\textgreater{}`, "|", `\textbar{}`, "`", `\textasciigrave{}`, `"`, `\textquotedbl{}`,
	"×", `$\times$`, "→", `$\to$`, "∞", `$\infty$`, "–", "--", "—", "---", "µ", `\textmu{}`,
	"≥", `$\ge$`, "≤", `$\le$`, "“", "``", "”", "''", "’", "'", "…", `\ldots{}`,
	"\u202f", `\,`, "\u00a0", "~", "\u200b", `{}`,
)
