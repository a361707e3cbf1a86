package admission

// Sink is told every answer as it leaves for the API server, dry-runs
// included, beside the reporters. It must not block: the caller waits.
type Sink interface {
	Answered(Answer)
	Intended(IntentAnswer)
}

// All returns what tells several of one answer, in turn.
func All[T any](told ...func(T)) func(T) {
	return func(answer T) {
		for _, tell := range told {
			tell(answer)
		}
	}
}
