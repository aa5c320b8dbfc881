package policy_test

import (
	"fmt"
	"time"

	"taskguide/migration/policy"
)

// Ask a policy by its name what it would do after a round.
func ExampleParse() {
	choice, err := policy.Parse("xen:max-rounds=5")
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := choice.New(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	after := func(rounds, dirty int) {
		a := p.Step(0, policy.Event{
			Kind: policy.KindRound, Completed: rounds, Remaining: dirty, RAM: 1 << 16,
		})
		fmt.Printf("round %d, %d dirty: %v (%s)\n", rounds, dirty, a.Verb, a.Reason)
	}
	after(1, 9000)
	after(2, 40)
	after(5, 9000)
	// Output:
	// round 1, 9000 dirty: continue ()
	// round 2, 40 dirty: switchover (fewer than 50 dirty pages)
	// round 5, 9000 dirty: switchover (5 rounds)
}

// Most policies judge by the event alone, and are one function. It must not say Continue to fewer
// pages where it says Switchover to more.
func ExampleStopRule() {
	permille := policy.StopRule(func(_ time.Duration, e policy.Event) policy.Action {
		if 1000*e.Missing() <= e.RAM {
			return policy.Action{Verb: policy.Switchover, Reason: "a thousandth of the RAM is left"}
		}
		return policy.Action{}
	})
	for _, remaining := range []int{4000, 40} {
		a := permille.Step(0, policy.Event{
			Kind: policy.KindRound, Remaining: remaining, RAM: 1 << 16,
		})
		fmt.Println(remaining, a.Verb)
	}
	// Output:
	// 4000 continue
	// 40 switchover
}
