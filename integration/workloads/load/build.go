package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
)

// buildLines is about how many lines a build prints. They are a pass.
const buildLines = 40

// build runs a command again and again, as long as goOn says so. A step is a line that it prints,
// as make does for each file. It must end well each time. The load is warm after the first time.
func build(m *meter, command []string, goOn func() bool) error {
	for n := 0; goOn(); n++ {
		if n == 1 {
			m.ready()
		}
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		lines := bufio.NewReader(out)
		for _, err = lines.ReadString('\n'); err == nil; _, err = lines.ReadString('\n') {
			m.wrote()
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("build number %d: %w", n+1, err)
		}
	}
	return nil
}
