// Renders a Helm chart's templates with Go's own template engine, which is Helm's, and the functions that this
// chart uses. Helm itself is not needed. Standard input: {"context": {...}, "templates": {name: text}} as JSON;
// standard output: {name: rendered} as JSON. A template that fails ends with its error and status 1.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"text/template"
)

type object = map[string]interface{}

func indent(spaces int, text string) string {
	pad := strings.Repeat(" ", spaces)
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
}

func yaml(value interface{}, depth int) string {
	pad := strings.Repeat("  ", depth)
	switch v := value.(type) {
	case object:
		if len(v) == 0 {
			return "{}"
		}
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		var lines []string
		for _, key := range keys {
			lines = append(lines, pad+scalar(key)+":"+under(v[key], depth))
		}
		return strings.Join(lines, "\n")
	case []interface{}:
		if len(v) == 0 {
			return "[]"
		}
		var lines []string
		for _, item := range v {
			lines = append(lines, pad+"- "+strings.TrimLeft(yaml(item, depth+1), " "))
		}
		return strings.Join(lines, "\n")
	}
	return scalar(value)
}

func under(value interface{}, depth int) string {
	switch v := value.(type) {
	case object:
		if len(v) > 0 {
			return "\n" + yaml(v, depth+1)
		}
	case []interface{}:
		if len(v) > 0 {
			return "\n" + yaml(v, depth)
		}
	}
	return " " + yaml(value, depth)
}

func scalar(value interface{}) string {
	text, _ := json.Marshal(value)
	return string(text)
}

func empty(value interface{}) bool {
	truth, _ := template.IsTrue(value)
	return !truth
}

func merge(target object, sources ...object) object {
	for _, source := range sources {
		for key, value := range source {
			held, there := target[key]
			inner, isObject := held.(object)
			other, both := value.(object)
			if !there {
				target[key] = value
			} else if isObject && both {
				merge(inner, other)
			}
		}
	}
	return target
}

func copied(value interface{}) interface{} {
	switch v := value.(type) {
	case object:
		made := object{}
		for key, item := range v {
			made[key] = copied(item)
		}
		return made
	case []interface{}:
		made := make([]interface{}, len(v))
		for at, item := range v {
			made[at] = copied(item)
		}
		return made
	}
	return value
}

func number(value interface{}) int {
	switch v := value.(type) {
	case json.Number:
		whole, _ := v.Int64()
		return int(whole)
	case int:
		return v
	}
	return 0
}

func functions(tree *template.Template, files map[string]string) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, context interface{}) (string, error) {
			var out bytes.Buffer
			err := tree.ExecuteTemplate(&out, name, context)
			return out.String(), err
		},
		"toYaml":  func(value interface{}) string { return yaml(value, 0) },
		"indent":  indent,
		"nindent": func(spaces int, text string) string { return "\n" + indent(spaces, strings.TrimRight(text, "\n")) },
		"quote":   func(value interface{}) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"trunc": func(most int, text string) string {
			if len(text) > most {
				return text[:most]
			}
			return text
		},
		"contains":  func(part, text string) bool { return strings.Contains(text, part) },
		"sha256sum": func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) },
		"fail":      func(message string) (string, error) { return "", errors.New(message) },
		"int":       number,
		"merge":     merge,
		"deepCopy":  copied,
		"list":      func(items ...interface{}) []interface{} { return items },
		"dict": func(pairs ...interface{}) object {
			made := object{}
			for at := 0; at+1 < len(pairs); at += 2 {
				made[pairs[at].(string)] = pairs[at+1]
			}
			return made
		},
		"default": func(otherwise interface{}, given ...interface{}) interface{} {
			if len(given) == 0 || empty(given[0]) {
				return otherwise
			}
			return given[0]
		},
		"ternary": func(yes, no interface{}, when bool) interface{} {
			if when {
				return yes
			}
			return no
		},
	}
}

type chartFiles map[string]string

// Get is what .Files.Get calls.
func (f chartFiles) Get(name string) string { return f[name] }

func main() {
	var asked struct {
		Context   object            `json:"context"`
		Templates map[string]string `json:"templates"`
		Files     map[string]string `json:"files"`
	}
	decoder := json.NewDecoder(os.Stdin)
	decoder.UseNumber()
	if err := decoder.Decode(&asked); err != nil && err != io.EOF {
		fail(err)
	}
	asked.Context["Files"] = chartFiles(asked.Files)
	tree := template.New("chart").Option("missingkey=zero")
	tree.Funcs(functions(tree, asked.Files))
	for name, text := range asked.Templates {
		if _, err := tree.New(name).Parse(text); err != nil {
			fail(err)
		}
	}
	rendered := map[string]string{}
	for name := range asked.Templates {
		var out bytes.Buffer
		if err := tree.ExecuteTemplate(&out, name, asked.Context); err != nil {
			fail(err)
		}
		rendered[name] = out.String()
	}
	json.NewEncoder(os.Stdout).Encode(rendered)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
