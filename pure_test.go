package architecture

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

// pure are the packages in which nothing waits, reads a clock, takes a lock or starts anything, so
// that what they decide follows from their input alone and can be repeated. Each has the packages
// that it may import.
var pure = map[string]string{
	"migration/policy": "cmp errors fmt maps math slices strconv strings time",
	"bench/sim": `bytes cmp embed encoding/json errors fmt io math math/bits math/rand/v2 slices
		sort strings time taskguide/dirtylog/trace taskguide/memory taskguide/migration/policy`,
}

// clock are the functions of package time that read one or wait.
var clock = strings.Fields("Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker")

// TestPure: time comes with the event, or is virtual, in all files but the tests.
func TestPure(t *testing.T) {
	for folder, imports := range pure {
		names, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		names = slices.DeleteFunc(names, func(name string) bool {
			return strings.HasSuffix(name, "_test.go")
		})
		require.NotEmpty(t, names, folder)
		for _, name := range names {
			requirePure(t, name, strings.Fields(imports))
		}
	}
}

func requirePure(t *testing.T, name string, imports []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, nil, 0)
	require.NoError(t, err)
	for _, imported := range file.Imports {
		path, err := strconv.Unquote(imported.Path.Value)
		require.NoError(t, err)
		require.Contains(t, imports, path, name)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
			t.Errorf("%v: no goroutines here, nor talk with them", set.Position(n.Pos()))
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				t.Errorf("%v: no clock here", set.Position(n.Pos()))
			}
		}
		return true
	})
}
