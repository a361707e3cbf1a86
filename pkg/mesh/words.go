package mesh

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// brief is a text of a peer's as it may stand in a sentence of ours: short, on one line, and with nothing in it
// that a terminal would obey.
func brief(text string) string {
	// Escaping lengthens it by at most ten.
	if len(text) > maxWords {
		end := maxWords
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	if printable(text) {
		return text
	}
	quoted := strconv.QuoteToGraphic(text)
	quoted = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	if len(quoted) > 2*maxWords {
		quoted = quoted[:maxWords] + "…"
	}
	return quoted
}

func printable(text string) bool {
	for _, r := range text {
		if r == utf8.RuneError || !strconv.IsGraphic(r) {
			return false
		}
	}
	return true
}

// unreachable says in a few words why an etcd could not be read.
func unreachable(err error) error {
	var outside *outsideError
	var overload *overloadError
	switch {
	case errors.As(err, &outside):
		return outside
	case errors.As(err, &overload):
		return overload
	case timedOut(err):
		return errors.New("its kvstore does not answer in time")
	case errors.Is(err, context.Canceled), status.Code(err) == codes.Canceled:
		return errors.New("the read was cut short")
	case status.Code(err) == codes.Unavailable:
		return fmt.Errorf("its kvstore is unreachable: %s", brief(lastPart(status.Convert(err).Message())))
	}
	return fmt.Errorf("its kvstore cannot be read: %s", brief(lastPart(err.Error())))
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// lastPart keeps the cause at the end of gRPC's chain of descriptions.
func lastPart(message string) string {
	message = strings.Trim(message, `"`)
	if i := strings.LastIndex(message, "desc = "); i >= 0 {
		message = message[i+len("desc = "):]
	}
	parts := strings.Split(message, ": ")
	return strings.Trim(parts[len(parts)-1], `"`)
}
