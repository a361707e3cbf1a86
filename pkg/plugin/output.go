package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
)

// output is kubectl's -o for data that no API server has: json, yaml, and templates.
type output struct {
	format    string
	encoded   *genericclioptions.JSONYamlPrintFlags
	templates *genericclioptions.KubeTemplatePrintFlags
}

// dataVersion is the apiVersion of what -o prints. Fields may be added; none changes its meaning.
const dataVersion = "cli.meshpdb.io/v1alpha1"

func newOutput(cmd *cobra.Command) *output {
	o := &output{encoded: genericclioptions.NewJSONYamlPrintFlags(), templates: genericclioptions.NewKubeTemplatePrintFlags()}
	o.encoded.AddFlags(cmd)
	o.templates.AddFlags(cmd)
	cmd.Flags().StringVarP(&o.format, "output", "o", "", fmt.Sprintf("Output format. One of: (%s).", strings.Join(o.formats(), ", ")))
	completeFlag(cmd, "output", func(string) []string { return o.formats() })
	return o
}

func (o *output) formats() []string {
	return append(o.encoded.AllowedFormats(), o.templates.AllowedFormats()...)
}

// printer returns nil if people are to read it.
func (o *output) printer() (printers.ResourcePrinter, error) {
	format := o.format
	if format == "" && *o.templates.TemplateArgument != "" {
		format = "go-template"
	}
	if format == "" {
		return nil, nil
	}
	p, err := o.encoded.ToPrinter(format)
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		p, err = o.templates.ToPrinter(format)
	}
	if genericclioptions.IsNoCompatiblePrinterError(err) {
		return nil, genericclioptions.NoCompatiblePrinterError{OutputFormat: &o.format, AllowedFormats: o.formats()}
	}
	return p, err
}

// print writes data as an object of a kind.
func (o *output) print(w io.Writer, p printers.ResourcePrinter, kind string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	object := map[string]any{}
	// Integers stay integers.
	if err := utiljson.Unmarshal(text, &object); err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	object["apiVersion"], object["kind"] = dataVersion, kind
	return p.PrintObj(&unstructured.Unstructured{Object: object}, w)
}

// table prints rows as kubectl get does.
func table(w io.Writer, noHeaders bool, columns []string, rows [][]any) error {
	t := &metav1.Table{}
	for _, c := range columns {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: c, Type: "string"})
	}
	for _, r := range rows {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: r})
	}
	return printers.NewTablePrinter(printers.PrintOptions{NoHeaders: noHeaders}).PrintObj(t, w)
}

// sentences writes lines and remembers the first failure.
type sentences struct {
	w   io.Writer
	err error
}

func (s *sentences) say(format string, args ...any) {
	if _, err := fmt.Fprintf(s.w, format+"\n", args...); err != nil && s.err == nil {
		s.err = err
	}
}

// ExitCode ends the program without another word.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// failure is an error with an exit code of its own.
type failure struct {
	error
	code int
}

func (f failure) Unwrap() error { return f.error }

// CodeOf is the exit code for an error of the command; told reports that
// it has told people everything itself.
func CodeOf(err error) (code int, told bool) {
	var exit ExitCode
	var failed failure
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &exit):
		return int(exit), true
	case errors.As(err, &failed):
		return failed.code, false
	}
	return 1, false
}
