package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPure: nothing here waits, reads a clock, takes a lock or starts anything, so that decisions
// follow from the events alone and can be repeated.
func TestPure(t *testing.T) {
	allowed := strings.Fields("cmp errors fmt maps math slices strconv strings time")
	clock := strings.Fields("Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker")
	set := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		require.NoError(t, err)
		for _, imported := range file.Imports {
			path, err := strconv.Unquote(imported.Path.Value)
			require.NoError(t, err)
			require.Contains(t, allowed, path, name)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%v: no goroutines here, nor talk with them", set.Position(n.Pos()))
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%v: time comes with the event", set.Position(n.Pos()))
				}
			}
			return true
		})
	}
}
