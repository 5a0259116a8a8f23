package supervised

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchdogOfAHungService: systemd hears of a service exactly while it is alive.
func TestWatchdogOfAHungService(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	log := slog.New(slog.DiscardHandler)
	heard := func() string {
		b := make([]byte, 256)
		_ = systemd.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, _ := systemd.Read(b)
		return string(b[:n])
	}
	Ready(log)
	if got := heard(); got != "READY=1" {
		t.Errorf("heard %q", got)
	}
	var hangs atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, log, func(ctx context.Context) bool {
			if hangs.Load() {
				<-ctx.Done()
				return false
			}
			return true
		})
	}()
	if got := heard(); got != "WATCHDOG=1" {
		t.Errorf("heard %q of a live service", got)
	}
	hangs.Store(true)
	for range 3 { // what was already on its way
		heard()
	}
	if got := heard(); got != "" {
		t.Errorf("heard %q of one that hangs", got)
	}
	cancel()
	<-done
	Stopping(log)
	if got := heard(); got != "STOPPING=1" {
		t.Errorf("heard %q", got)
	}
}

// TestNoSystemd: nothing happens, and nothing waits.
func TestNoSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	log := slog.New(slog.DiscardHandler)
	Ready(log)
	Watch(t.Context(), log, func(context.Context) bool { t.Error("asked"); return true })
}
