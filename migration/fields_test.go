package migration

//lint:file-ignore U1000 reflection alone reads the fields in TestFieldsAreCounted

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/migration/peer"
	"taskguide/migration/policy"
	"taskguide/migration/stream"
)

// mostFields is how many a reader can keep in mind: those of a structure and of all that it owns
// alone. Before adding one, look for fields that matter in one phase only, that can be computed, or
// that do a separate job and so belong in a package.
const mostFields = 25

// fieldsOf counts the fields of a structure and of those that it holds, in place, behind pointers
// or in collections, as far as they are of the same package. A structure of another package has its
// own job, documentation and tests, and counts as one.
func fieldsOf(t reflect.Type, apart ...reflect.Type) (n int, counted []string) {
	seen := map[reflect.Type]bool{}
	for _, other := range apart {
		seen[other] = true
	}
	var visit func(reflect.Type)
	visit = func(v reflect.Type) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Chan:
			visit(v.Elem())
		case reflect.Map:
			visit(v.Key())
			visit(v.Elem())
		case reflect.Struct:
			if own := v.Name() == "" || v.PkgPath() == t.PkgPath(); !own || seen[v] {
				return
			}
			seen[v] = true
			for i := range v.NumField() {
				n++
				counted = append(counted, v.Name()+"."+v.Field(i).Name)
				visit(v.Field(i).Type)
			}
		}
	}
	visit(t)
	return n, counted
}

// TestSourceIsSmall: the engine's decisions, its pages and its destination have packages of their
// own, so that what is left fits a head. Params and Report, which are its order and its outcome,
// count as a field each.
func TestSourceIsSmall(t *testing.T) {
	params, report := reflect.TypeFor[Params](), reflect.TypeFor[Report]()
	n, counted := fieldsOf(reflect.TypeFor[Source](), params, report)
	require.LessOrEqual(t, n, mostFields, "%v", counted)
	require.Contains(t, counted, "standstill.begin", "what is behind a pointer counts")
	for _, part := range []reflect.Type{
		reflect.TypeFor[peer.Peer](), reflect.TypeFor[peer.Doubt](),
		reflect.TypeFor[stream.Stream](), reflect.TypeFor[policy.Head](),
	} {
		require.LessOrEqual(t, part.NumField(), mostFields, part)
	}
}

// TestFieldsAreCounted: fields are counted in all places where they could hide.
func TestFieldsAreCounted(t *testing.T) {
	type leaf struct{ a, b int }
	type other struct{ c *other }
	type order struct{ x, y, z int }
	type tree struct {
		leaf
		again *leaf
		many  []other
		by    map[string]*[1]struct{ d int }
		order order
		part  peer.Watch
		wake  chan struct{}
	}
	n, counted := fieldsOf(reflect.TypeFor[tree](), reflect.TypeFor[order]())
	require.Equal(t, 7+2+1+1, n, "%v", counted)
}
