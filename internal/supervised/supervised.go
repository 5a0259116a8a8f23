// Package supervised tells systemd how a service of Writ is: that it is ready, that
// its one loop that matters still turns, that it stops (sd_notify(3)). Without
// systemd it does nothing.
package supervised

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that the service serves.
func Ready(log *slog.Logger) { tell(log, daemon.SdNotifyReady) }

// Stopping says that it is shutting down.
func Stopping(log *slog.Logger) { tell(log, daemon.SdNotifyStopping) }

func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "state", state, "error", err)
	}
}

// Watch answers systemd's watchdog, if it has one for this service, until ctx ends:
// twice within its time, and only after alive has returned true. alive should take
// the way that the service's real work takes. It gets a context that ends when the
// watchdog would: one that hangs is not alive.
func Watch(ctx context.Context, log *slog.Logger, alive func(context.Context) bool) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("asking for systemd's watchdog", "error", err)
	}
	if within <= 0 || err != nil {
		return
	}
	tick := time.NewTicker(within / 2)
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, within)
		if alive(look) {
			tell(log, daemon.SdNotifyWatchdog)
		} else {
			log.Warn("the watchdog is not answered: the service does not do its work")
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
