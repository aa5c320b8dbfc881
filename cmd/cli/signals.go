package cli

import (
	"context"
	"os"
	"os/signal"
	"slices"
)

// UntilSignal is ctx until one of the signals asks the program to end. One that is ignored stays
// so, because nohup and shells without job control start background programs like that, and
// [signal.Notify] would make it count again.
func UntilSignal(ctx context.Context, all ...os.Signal) (context.Context, context.CancelFunc) {
	heeded := slices.DeleteFunc(slices.Clone(all), signal.Ignored)
	if len(heeded) == 0 { // for NotifyContext, that is all signals
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, heeded...)
}
