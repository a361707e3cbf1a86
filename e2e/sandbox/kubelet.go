package sandbox

import (
	"context"
	"sync"
	"time"
)

// The kubelet's pauses before it starts a container again.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
)

// KeepControllers starts controllers that end by themselves again, as the kubelet does: at once, and if that does not
// last, after 10 s, 20 s, 40 s and so on. Those that were killed or stopped from here are left alone. It returns
// when ctx ends. Controllers that are made later are not looked after.
func (m *Mesh) KeepControllers(ctx context.Context) {
	var kept sync.WaitGroup
	for _, c := range m.Clusters {
		for _, p := range c.Controllers {
			kept.Go(func() { p.keep(ctx) })
		}
	}
	kept.Wait()
}

func (p *Controller) keep(ctx context.Context) {
	var backoff time.Duration
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		running := p.current()
		select {
		case <-ctx.Done():
			return
		case <-running.done:
		}
		if !running.asked() {
			running.expect()
			p.cluster.mesh.progressf("%s ended (%s), to be started again after %s", p.command.name, running.cmd.ProcessState, backoff)
			if !pause(ctx, backoff) {
				return
			}
			if backoff = min(2*backoff, lastBackoff); backoff == 0 {
				backoff = firstBackoff
			}
			if p.current() == running {
				started, err := p.cluster.mesh.launcher.start(p.command)
				if err != nil {
					p.cluster.mesh.progressf("%v", err)
					return
				}
				p.cluster.mu.Lock()
				p.process = started
				p.cluster.mu.Unlock()
			}
			continue
		}
		// Whoever killed it will start it again.
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
