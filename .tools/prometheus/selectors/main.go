// Command selectors reads PromQL expressions, a JSON list of strings, and
// writes what each selects and by which labels it groups, as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// use is what one expression uses.
type use struct {
	Expression string `json:"expression"`
	// Metrics are the names that are selected, each with the labels it is selected by.
	Metrics map[string][]string `json:"metrics"`
	// Grouping are the labels of by, without, on, ignoring and group_left.
	Grouping []string `json:"grouping"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "selectors:", err)
		os.Exit(1)
	}
}

func run() error {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		return fmt.Errorf("decode expressions: %w", err)
	}
	var all []use
	for _, text := range expressions {
		e, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			return fmt.Errorf("parse %q: %w", text, err)
		}
		one := use{Expression: text, Metrics: map[string][]string{}}
		parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.VectorSelector:
				selects := one.Metrics[n.Name]
				for _, m := range n.LabelMatchers {
					if m.Name != labels.MetricName {
						selects = append(selects, m.Name)
					}
				}
				one.Metrics[n.Name] = selects
			case *parser.AggregateExpr:
				one.Grouping = append(one.Grouping, n.Grouping...)
			case *parser.BinaryExpr:
				if v := n.VectorMatching; v != nil {
					one.Grouping = append(append(one.Grouping, v.MatchingLabels...), v.Include...)
				}
			}
			return nil
		})
		all = append(all, one)
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}
