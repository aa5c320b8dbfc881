package architecture

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// fenced is code, where nothing is a link or a heading.
	fenced = regexp.MustCompile("(?ms)^```.*?^```$")
	// linked is where a link leads: in the text, and where a reference is defined.
	linked = regexp.MustCompile(`\]\(([^)\s]+)\)|(?m:^\[[^\]]+\]:\s*(\S+))`)
	// elsewhere begins a link that leaves the project.
	elsewhere = regexp.MustCompile(`^[a-z]+:`)
	// headed is a heading, and named a place with a name of its own.
	headed = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	named  = regexp.MustCompile(`<a id="([^"]+)">`)
	// textOf is the text of a link.
	textOf = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	// unslugged is what the name of a heading leaves out of its text.
	unslugged = regexp.MustCompile(`[^\pL\pN_\- ]`)
)

// anchors are the places of a document that a link can lead to, as GitHub names them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		all[m[1]] = true
	}
	seen := map[string]int{}
	for _, m := range headed.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		heading := strings.ToLower(textOf.ReplaceAllString(m[1], "$1"))
		slug := strings.ReplaceAll(unslugged.ReplaceAllString(heading, ""), " ", "-")
		name := slug
		if n := seen[slug]; n > 0 {
			name = fmt.Sprintf("%s-%d", slug, n)
		}
		seen[slug]++
		all[name] = true
	}
	return all
}

// deadLinks are the links of a document that lead nowhere within the project.
func deadLinks(file, text string, read func(string) (string, error)) []string {
	var dead []string
	for _, m := range linked.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		link := m[1] + m[2]
		if elsewhere.MatchString(link) {
			continue
		}
		path, anchor, _ := strings.Cut(link, "#")
		target := file
		if path != "" {
			target = filepath.Join(filepath.Dir(file), path)
		}
		there, err := read(target)
		document := strings.HasSuffix(target, ".md")
		if err != nil || anchor != "" && document && !anchors(there)[anchor] {
			dead = append(dead, file+": "+link)
		}
	}
	return dead
}

// TestLinks: what documents link to within the project is there.
func TestLinks(t *testing.T) {
	read := func(path string) (string, error) {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return "", err
		}
		text, err := os.ReadFile(path)
		return string(text), err
	}
	var dead []string
	for _, file := range writtenFiles(t) {
		if strings.HasSuffix(file, ".md") {
			text, err := read(file)
			require.NoError(t, err)
			dead = append(dead, deadLinks(file, text, read)...)
		}
	}
	require.Empty(t, dead)
}

// TestDeadLinksAreSeen gives the test links that lead nowhere, and others that only seem to.
func TestDeadLinksAreSeen(t *testing.T) {
	documents := map[string]string{
		"docs/b.md": "# One `two`, three!\n## Again\n\n## Again\n<a id=\"own\"></a>\n" +
			"```\n# code\n```\n",
		"c.go": "",
	}
	read := func(path string) (string, error) {
		text, ok := documents[path]
		if !ok {
			return "", os.ErrNotExist
		}
		return text, nil
	}
	for link, want := range map[string]bool{
		"b.md": true, "b.md#one-two-three": true, "b.md#again": true, "b.md#again-1": true,
		"b.md#own": true, "../c.go": true, "../c.go#L3": true, "https://example.org/x": true,
		"b.md#again-2": false, "b.md#code": false, "d.md": false, "b.md#One": false,
	} {
		for _, form := range []string{"See [it](%s).", "[it]: %s"} {
			text := fmt.Sprintf(form, link)
			require.Equal(t, want, len(deadLinks("docs/a.md", text, read)) == 0, text)
		}
	}
	require.Empty(t, deadLinks("docs/a.md", "```\n[it](nowhere.md)\n```\n", read))
	require.Empty(t, deadLinks("docs/b.md", "[it](#mine)\n# Mine", func(string) (string, error) {
		return "# Mine", nil
	}))
}
