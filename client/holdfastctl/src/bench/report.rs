//! The figures of the runs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    args::Workload,
    exit::Failure,
    output::{self, Format, Screen},
};

/// One run at one concurrency.
pub struct Run {
    pub workload: Workload,
    pub concurrency: usize,
    pub took: Duration,
    pub operations: u64,
    pub latencies_us: Histogram<u64>,
    /// Longest time in which nothing was answered.
    pub stall: Duration,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Of the processes that were watched.
    pub cpu: Duration,
}

impl Run {
    fn name(&self) -> &'static str {
        match self.workload {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Txn => "txn",
            Workload::Fill => "fill",
        }
    }

    fn rate(&self) -> f64 {
        self.operations as f64 / self.took.as_secs_f64()
    }

    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// CPU-milliseconds of the watched processes per 1,000 operations.
    fn cpu_ms(&self) -> Option<f64> {
        let thousands = self.operations as f64 / 1000.0;
        (self.operations > 0).then(|| self.cpu.as_secs_f64() * 1000.0 / thousands)
    }

    fn cells(&self, with_cpu: bool) -> Vec<String> {
        let mut cells = vec![
            self.name().to_owned(),
            self.concurrency.to_string(),
            format!("{:.0}", self.rate()),
            format!("{:.2}", self.quantile_ms(0.5)),
            format!("{:.2}", self.quantile_ms(0.99)),
            format!("{:.2}", self.quantile_ms(0.999)),
            format!("{:.0}", self.stall.as_secs_f64() * 1000.0),
            self.errors.to_string(),
        ];
        if with_cpu {
            cells.push(
                self.cpu_ms()
                    .map_or_else(String::new, |ms| format!("{ms:.1}")),
            );
        }
        cells
    }

    fn json(&self, with_cpu: bool) -> Value {
        let mut json = json!({
            "op": self.name(),
            "concurrency": self.concurrency,
            "seconds": self.took.as_secs_f64(),
            "operations": self.operations,
            "ops_per_second": self.rate(),
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "p999_ms": self.quantile_ms(0.999),
            "max_ms": self.latencies_us.max() as f64 / 1000.0,
            "stall_ms": self.stall.as_secs_f64() * 1000.0,
            "errors": self.errors,
        });
        if with_cpu {
            json["cpu_ms_per_1000_ops"] = json!(self.cpu_ms());
        }
        if let Some(error) = &self.first_error {
            json["first_error"] = json!(error);
        }
        json
    }
}

pub fn show(runs: &[Run], with_cpu: bool, screen: &mut Screen) -> Result<(), Failure> {
    let mut head = vec![
        "op",
        "concurrency",
        "ops/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "stall ms",
        "errors",
    ];
    if with_cpu {
        head.push("CPU ms/1000 ops");
    }
    match screen.format {
        Format::Json => {
            screen.json(&runs.iter().map(|run| run.json(with_cpu)).collect::<Value>())?;
        }
        Format::Table => {
            let mut table = output::table(head);
            for run in runs {
                table.add_row(run.cells(with_cpu));
            }
            screen.table(&table)?;
        }
        Format::Plain => {
            screen.line(head.join("\t"))?;
            for run in runs {
                screen.line(run.cells(with_cpu).join("\t"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_run() {
        let mut latencies_us = Histogram::new(3).expect("three digits");
        for us in 1..=1000 {
            latencies_us.record(us).expect("in range");
        }
        let mut run = Run {
            workload: Workload::Put,
            concurrency: 4,
            took: Duration::from_secs(2),
            operations: 1000,
            latencies_us,
            stall: Duration::from_millis(40),
            errors: 3,
            first_error: None,
            cpu: Duration::from_millis(250),
        };
        assert_eq!(
            run.cells(true),
            [
                "put", "4", "500", "0.50", "0.99", "1.00", "40", "3", "250.0"
            ]
        );
        assert_eq!(run.json(true)["cpu_ms_per_1000_ops"], 250.0);
        run.operations = 0;
        assert_eq!(run.cells(true).last().map(String::as_str), Some(""));
    }
}
