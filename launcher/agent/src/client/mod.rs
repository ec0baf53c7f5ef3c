//! The commands that read and change the cluster, through the agent of this node.

mod http;
mod show;

use crate::api::{self, ApplyAnswer, ListAnswer, MoveAnswer};
use crate::cli::Failure;
use crate::cli::verbs::{AgentArgs, ApplyArgs, DeleteArgs, DescribeArgs, GetArgs, MoveArgs, PowerArgs, WaitArgs};
use crate::cluster::{Application, ObjectView};
use crate::resources::{self, Resource};
use hawser_manifest::objects::{MAX_FILE, SourceFile, written};
use http::{Agent, Problem};
use hyper::Method;
use serde_json::Value;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Interval at which a command that waits or watches asks again.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs `hawser-agent apply`.
///
/// # Errors
/// The reason why the command failed; the same for the functions below.
pub(crate) fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let files = read_all(&args.files)?;
    let agent = agent(&args.agent);
    let application = Application {
        files,
        namespace: args.agent.namespace.clone(),
        dry_run: args.dry_run,
    };
    let body = serde_json::to_vec(&application).map_err(Failure::runtime)?;
    let answer: ApplyAnswer = agent.ask(Method::POST, "/v1/apply", &[], body)?;
    for warning in &answer.warnings {
        eprintln!("{warning}");
    }
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    for object in &answer.objects {
        print(&format!(
            "{}/{} {}{suffix}\n",
            object.kind.to_ascii_lowercase(),
            object.name,
            object.result
        ))?;
    }
    if !args.wait.wait || args.dry_run {
        return Ok(());
    }
    let is_vm = |kind: &str| resources::of_manifest(kind) == Some(&resources::VM);
    for object in answer.objects.iter().filter(|object| is_vm(&object.kind)) {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        wait_for(
            &agent,
            (namespace, &object.name),
            &args.wait,
            "running",
            |vm| match vm {
                Some(vm) => is_settled(vm),
                None => false,
            },
        )?;
    }
    Ok(())
}

/// True if the VM runs, or is not to run and does not.
fn is_settled(object: &ObjectView) -> bool {
    object.vm.as_ref().is_some_and(|vm| match vm.power {
        crate::objects::Power::On => vm.phase == "Running",
        crate::objects::Power::Off => vm.phase == "Stopped",
    })
}

/// Runs `hawser-agent get`.
pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
    let (resource, name) = named(&args.kind, args.name.as_deref())?;
    let agent = agent(&args.agent);
    let namespace = (!args.all_namespaces).then_some(args.agent.namespace.as_str());
    let mut shown = None;
    loop {
        let objects = match list(&agent, resource, namespace, name.as_deref()) {
            // An object that is watched may come back.
            Err(Problem::NotFound(_)) if args.watch && shown.is_some() => Vec::new(),
            objects => objects?,
        };
        let is_one = name.is_some();
        let text = show::objects(resource, &objects, args.output, args.all_namespaces, is_one)?;
        if shown.as_ref() != Some(&text) {
            print(&text)?;
            shown = Some(text);
        }
        if !args.watch {
            break;
        }
        thread::sleep(INTERVAL);
    }
    if shown.is_some_and(|text| text.is_empty()) {
        eprintln!("No {} found", resource.kind);
    }
    Ok(())
}

/// Runs `hawser-agent describe`.
pub(crate) fn describe(args: &DescribeArgs) -> Result<(), Failure> {
    let (resource, name) = named(&args.kind, args.name.as_deref())?;
    let namespace = Some(args.agent.namespace.as_str());
    let objects = list(&agent(&args.agent), resource, namespace, name.as_deref())?;
    let texts: Vec<String> = objects.iter().map(show::description).collect();
    print(&texts.join("\n"))
}

/// Runs `hawser-agent delete`.
pub(crate) fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let agent = agent(&args.agent);
    let mut targets: Vec<(&Resource, String, String)> = Vec::new();
    if let Some(kind) = &args.kind {
        let (resource, name) = named(kind, args.name.as_deref())?;
        let name = name.ok_or_else(|| Failure::usage(format_args!("give the name of the {}", resource.kind)))?;
        targets.push((resource, args.agent.namespace.clone(), name));
    }
    let found = written::list(&read_all(&args.files)?, &args.agent.namespace).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::runtime(lines.join("\n"))
    })?;
    for object in found {
        let resource = resources::of_manifest(&object.kind);
        let resource = resource
            .ok_or_else(|| Failure::runtime(format_args!("{}: kind {} is not kept", object.spot, object.kind)))?;
        targets.push((resource, object.namespace.unwrap_or_default(), object.name));
    }
    // VMs go before the networks that they are on.
    targets.sort_by_key(|(resource, ..)| **resource != resources::VM);
    let off = if args.force { "1" } else { "" };
    for (resource, namespace, name) in &targets {
        let query = [
            ("kind", resource.kind),
            ("namespace", namespace),
            ("name", name),
            ("off", off),
        ];
        let _: Value = agent.ask(Method::DELETE, "/v1/objects", &query, Vec::new())?;
        print(&format!("{}/{name} deleted\n", resource.kind.to_ascii_lowercase()))?;
    }
    for (_, namespace, name) in targets
        .iter()
        .filter(|(resource, ..)| args.wait.wait && **resource == resources::VM)
    {
        wait_for(&agent, (namespace, name), &args.wait, "gone", |vm| vm.is_none())?;
    }
    Ok(())
}

/// Runs `hawser-agent start` or `hawser-agent stop`.
pub(crate) fn set_power(args: &PowerArgs, path: &str, done: &str) -> Result<(), Failure> {
    let agent = agent(&args.agent);
    let (namespace, name) = (args.agent.namespace.as_str(), args.vm.as_str());
    let _: Value = agent.ask(
        Method::POST,
        path,
        &[("namespace", namespace), ("name", name)],
        Vec::new(),
    )?;
    if args.wait.wait {
        wait_for(&agent, (namespace, name), &args.wait, done, |vm| {
            vm.is_some_and(is_settled)
        })?;
    }
    print(&format!("virtualmachine/{name} {done}\n"))
}

/// Runs `hawser-agent move`.
pub(crate) fn relocate(args: &MoveArgs) -> Result<(), Failure> {
    let agent = agent(&args.agent);
    let (namespace, name) = (args.agent.namespace.as_str(), args.vm.as_str());
    let (to, off) = (
        args.to.as_deref().unwrap_or_default(),
        if args.force { "1" } else { "" },
    );
    let flag = |is_set| if is_set { "1" } else { "" };
    let query = [
        ("namespace", namespace),
        ("name", name),
        ("to", to),
        ("off", off),
        ("live", flag(args.live)),
        ("cancel", flag(args.cancel)),
    ];
    let MoveAnswer { node } = agent.ask(Method::POST, "/v1/move", &query, Vec::new())?;
    if args.cancel {
        return print(&format!("virtualmachine/{name} stays on node {node}\n"));
    }
    if args.live {
        return follow_move(&agent, (namespace, name), &node, &args.wait);
    }
    if args.wait.wait {
        wait_for(&agent, (namespace, name), &args.wait, "running there", |vm| {
            vm.is_some_and(is_settled)
        })?;
    }
    print(&format!(
        "virtualmachine/{name} moved to node {node}: start its VMM there, on the sockets in the folder of its status\n"
    ))
}

/// Waits for a move of a VM that keeps running, and says what the operator has to do.
fn follow_move(agent: &Agent, vm: (&str, &str), node: &str, wait: &WaitArgs) -> Result<(), Failure> {
    let is_there = |object: &ObjectView| {
        let state = object.vm.as_ref();
        state.is_some_and(|vm| vm.node.as_deref() == Some(node) && vm.moving.is_none())
    };
    let arrival = |object: &ObjectView| object.vm.as_ref()?.moving.as_ref()?.status.clone();
    let mut folder = None;
    wait_for(agent, vm, wait, "ready to move", |object| {
        let Some(object) = object else { return false };
        let ready = arrival(object).filter(|status| status.phase == "Running");
        folder = ready.map(|status| status.folder).or(folder.take());
        folder.is_some() || is_there(object)
    })?;
    let name = vm.1;
    if let Some(folder) = folder {
        print(&format!(
            "virtualmachine/{name} is ready to move to node {node}: start a VMM that waits for the guest there, on the \
             sockets in {}, and migrate the guest to it\n",
            folder.display()
        ))?;
    }
    if wait.wait {
        wait_for(agent, vm, wait, "running there", |object| {
            object.is_some_and(|object| is_there(object) && is_settled(object))
        })?;
        print(&format!("virtualmachine/{name} moved to node {node}\n"))?;
    }
    Ok(())
}

fn agent(args: &AgentArgs) -> Agent {
    Agent::new(&api::socket(&args.run_dir))
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::runtime)
}

/// The kind and name in `KIND NAME` or `KIND/NAME`.
fn named(kind: &str, name: Option<&str>) -> Result<(&'static Resource, Option<String>), Failure> {
    let (kind, name) = match (kind.split_once('/'), name) {
        (Some(_), Some(name)) => {
            return Err(Failure::usage(format_args!(
                "{kind} {name}: give KIND/NAME or KIND NAME"
            )));
        }
        (Some((kind, name)), None) => (kind, Some(name)),
        (None, name) => (kind, name),
    };
    let resource = resources::find(kind).map_err(Failure::usage)?;
    Ok((resource, name.map(str::to_owned)))
}

fn list(
    agent: &Agent,
    resource: &Resource,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<ObjectView>, Problem> {
    let query = [
        ("kind", resource.kind),
        ("namespace", namespace.unwrap_or_default()),
        ("name", name.unwrap_or_default()),
    ];
    let ListAnswer { items } = agent.ask(Method::GET, "/v1/objects", &query, Vec::new())?;
    Ok(items)
}

/// Waits until a VM is in a state. The VM is `None` if it does not exist.
fn wait_for(
    agent: &Agent,
    (namespace, name): (&str, &str),
    wait: &WaitArgs,
    what: &str,
    mut holds: impl FnMut(Option<&ObjectView>) -> bool,
) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(wait.timeout);
    loop {
        let objects = match list(agent, &resources::VM, Some(namespace), Some(name)) {
            Err(Problem::NotFound(_)) => Vec::new(),
            objects => objects?,
        };
        if holds(objects.first()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let state = objects.first().and_then(|object| object.vm.as_ref());
            let state = state.map_or_else(
                || "it does not exist".to_owned(),
                |vm| format!("{}: {}", vm.phase, vm.message),
            );
            return Err(Failure::runtime(format_args!(
                "VM {namespace}/{name} is not {what} after {} s ({state})",
                wait.timeout
            )));
        }
        thread::sleep(INTERVAL);
    }
}

/// Reads files, directories of files, and standard input.
fn read_all(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            files.push(read("standard input", io::stdin().lock())?);
            continue;
        }
        let failed = |error: io::Error| Failure::usage(format_args!("-f {}: {error}", path.display()));
        if !path.is_dir() {
            files.push(read_file(path)?);
            continue;
        }
        let mut inner: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json")) {
                inner.push(path);
            }
        }
        inner.sort();
        for path in &inner {
            files.push(read_file(path)?);
        }
    }
    Ok(files)
}

fn read_file(path: &Path) -> Result<SourceFile, Failure> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|error| Failure::usage(format_args!("-f {name}: {error}")))?;
    read(&name, file)
}

fn read(name: &str, source: impl Read) -> Result<SourceFile, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::usage(format_args!("-f {name}: {error}"));
    let mut text = String::new();
    source
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(&format!("it is larger than any manifest ({MAX_FILE} bytes)")));
    }
    Ok(SourceFile {
        name: name.to_owned(),
        text,
    })
}
