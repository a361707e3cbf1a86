package simulation

import (
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// link is what a call goes over.
type link uint8

const (
	// toAPI leads to the own cluster's API server.
	toAPI link = iota + 1
	// toOwn leads to one instance of the own kvstore, toPeer to a peer's.
	toOwn
	toPeer
)

var (
	errUnavailable = status.Error(codes.Unavailable, "connection error: desc = \"transport: connection refused\"")
	errLostAPI     = errors.New("http2: client connection lost")
)

const (
	// silence is how long a caller waits at most for an answer that never comes:
	// the keepalive of kvstore connections (5 s and 3 s), the HTTP/2 health check of API connections.
	silenceStore = 8 * time.Second
	silenceAPI   = 30 * time.Second
)

// fate draws what becomes of a call.
func (w *world) fate(c *call) fate {
	base := w.apiDelay
	silence := silenceAPI
	switch c.link {
	case toOwn:
		base, silence = w.ownDelay, silenceStore
	case toPeer:
		base, silence = w.peerDelay, silenceStore
	}
	f := fate{there: w.delay(base), back: w.delay(base)}
	if roll := w.rand.IntN(1000); roll < w.Lose && !w.quiet {
		w.stats.Lost++
		switch w.rand.IntN(5) {
		case 0:
			f.noEffect = true
		case 1:
			f.noAnswer, f.back = true, f.there+f.back
		case 2:
			f.noEffect, f.back = true, silence
		case 3:
			f.noAnswer, f.back = true, silence
		case 4:
			// It lands long after the caller was told that it failed.
			f.noAnswer, f.there = true, f.there+w.between(100*time.Millisecond, 8*time.Second)
		}
	}
	if hung := c.process.hungUntil; hung > w.now() {
		// The process does not read its answers, or does not come to send.
		if w.rand.IntN(2) == 0 {
			f.there += hung - w.now()
		} else {
			f.back += hung - w.now()
		}
	}
	return f
}

// slowest is the longest delay: a rest outlasts it.
const slowest = time.Minute

// delay draws a delay around base; now and then a long one.
func (w *world) delay(base time.Duration) time.Duration {
	d := base/2 + time.Duration(w.rand.Int64N(int64(base)))
	if !w.quiet && w.rand.IntN(1000) < w.Slow {
		d = min(d<<(2+w.rand.IntN(9)), slowest)
	}
	return d
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rand.Int64N(int64(most-least)))
}
