// Package need ends tests that need what is not here: root, a program, a file system.
//
// A skipped test looks like a passed one to whoever reads the end of a log. So a test is skipped
// only where nobody promised that all is here. CI installs everything and promises that by
// TASKGUIDE_NO_SKIP=1: there, a test that would be skipped fails.
//
// It also makes what only root can make: a loop device, a file system that is soon full.
package need

import (
	"os"
	"testing"
)

// All is the environment variable that promises that all is here, unless it is empty.
const All = "TASKGUIDE_NO_SKIP"

// Skip ends a test, because of what why says: it is skipped, or failed where [All] is set.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(All) != "" {
		t.Fatalf("%s; %s is set, so no test may be skipped", why, All)
	}
	t.Skip(why)
}
