package simulation

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Edit is how a scenario differs from the one that its seed draws.
type Edit struct {
	Seed uint64
	// Without are the indexes of actions that do not happen.
	Without []int
	// With are fields by name, as numbers: 0 and 1 for flags.
	With map[string]int
}

// Scenario is the edited one.
func (e Edit) Scenario() (Scenario, error) {
	s := Draw(e.Seed).Without(e.Without)
	fields := reflect.ValueOf(&s).Elem()
	for name, value := range e.With {
		switch f := fields.FieldByName(name); f.Kind() {
		case reflect.Int:
			f.SetInt(int64(value))
		case reflect.Bool:
			f.SetBool(value != 0)
		default:
			return s, fmt.Errorf("scenario has no number or flag %q", name)
		}
	}
	return s, nil
}

// Command repeats the run, in words.
func (e Edit) Command() string {
	command := fmt.Sprintf("go test ./pkg/simulation -run TestReplay -v -seed %d", e.Seed)
	if len(e.Without) > 0 {
		command += " -without " + spans(e.Without)
	}
	var with []string
	for name, value := range e.With {
		with = append(with, fmt.Sprintf("%s=%d", name, value))
	}
	slices.Sort(with)
	if len(with) > 0 {
		command += " -with " + strings.Join(with, ",")
	}
	return command
}

// spans writes sorted numbers as "1,4-9".
func spans(numbers []int) string {
	var parts []string
	for at := 0; at < len(numbers); {
		end := at
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		if end > at {
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[at], numbers[end]))
		} else {
			parts = append(parts, strconv.Itoa(numbers[at]))
		}
		at = end + 1
	}
	return strings.Join(parts, ",")
}

// ParseEdit reads what Command has written.
func ParseEdit(seed uint64, without, with string) (Edit, error) {
	e := Edit{Seed: seed, With: map[string]int{}}
	for _, part := range strings.FieldsFunc(without, func(r rune) bool { return r == ',' }) {
		from, to, span := strings.Cut(part, "-")
		if !span {
			to = from
		}
		first, err := strconv.Atoi(from)
		if err != nil {
			return e, fmt.Errorf("parse action %q: %w", part, err)
		}
		last, err := strconv.Atoi(to)
		if err != nil {
			return e, fmt.Errorf("parse action %q: %w", part, err)
		}
		for n := first; n <= last; n++ {
			e.Without = append(e.Without, n)
		}
	}
	for _, part := range strings.FieldsFunc(with, func(r rune) bool { return r == ',' }) {
		name, text, _ := strings.Cut(part, "=")
		value, err := strconv.Atoi(text)
		if err != nil {
			return e, fmt.Errorf("parse field %q: %w", part, err)
		}
		e.With[name] = value
	}
	return e, nil
}

// Shrink returns a smaller edit that still fails: with fewer actions, clusters,
// replicas and faults of the network.
func Shrink(e Edit, fails func(Scenario) bool) Edit {
	try := func(smaller Edit) bool {
		s, err := smaller.Scenario()
		if err != nil || !fails(s) {
			return false
		}
		e = smaller
		return true
	}
	whole := len(Draw(e.Seed).Plan)
	for size := whole; size >= 1; size /= 2 {
		for from := 0; from < whole; from += size {
			without := slices.Clone(e.Without)
			for n := from; n < min(from+size, whole); n++ {
				without = append(without, n)
			}
			slices.Sort(without)
			without = slices.Compact(without)
			if len(without) > len(e.Without) {
				try(Edit{Seed: e.Seed, Without: without, With: e.With})
			}
		}
	}
	with := func(name string, value int) bool {
		all := map[string]int{name: value}
		for other, v := range e.With {
			if other != name {
				all[other] = v
			}
		}
		return try(Edit{Seed: e.Seed, Without: e.Without, With: all})
	}
	for _, smaller := range []struct {
		name  string
		value int
	}{{"Rests", 0}, {"Lose", 0}, {"Slow", 0}, {"Exported", 0}, {"Identified", 0}, {"Budgets", 1}, {"Replicas", 1}, {"Instances", 1}, {"Clusters", 2}, {"Clusters", 3}, {"Pods", 1}, {"Pods", 2}} {
		with(smaller.name, smaller.value)
	}
	return e
}
