// A policy for vmm migrate --policy exec:plateau-go, with the standard library only. It switches
// over once what is left fits the downtime limit, or has not shrunk for five rounds.
package main

import (
	"encoding/json"
	"os"
)

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	limit, best, since := 300.0, -1, 0 // rounds since the one that left the fewest pages
	for {
		var e struct {
			Event    string   `json:"event"`
			Question int      `json:"question"`
			Limit    float64  `json:"downtime_limit_ms"`
			Left     int      `json:"remaining_pages"`
			Idle     bool     `json:"idle"`
			Pages    *float64 `json:"expected_downtime_ms"`
			Fixed    float64  `json:"fixed_downtime_ms"`
		}
		if in.Decode(&e) != nil {
			return
		}
		if e.Event == "start" {
			limit = e.Limit
		}
		if since++; e.Event != "round" || e.Idle {
			since--
		} else if best < 0 || e.Left < best {
			best, since = e.Left, 0
		}
		if e.Question == 0 {
			continue // it only tells
		}
		answer := map[string]any{"action": "continue"}
		switch {
		case e.Event == "start":
		case e.Pages != nil && *e.Pages+e.Fixed <= limit:
			answer = map[string]any{"action": "switchover", "reason": "the rest fits the limit"}
		case since >= 5:
			answer = map[string]any{"action": "switchover", "gave_up": true}
		}
		if out.Encode(answer) != nil {
			return
		}
	}
}
