// The official clients of both run protocols against a running gateway; prints what came as JSON.
//
// usage: node agent.mjs GATEWAY_URL
import { HttpAgent } from '@ag-ui/client'
import { readUIMessageStream, parseJsonEventStream, uiMessageChunkSchema } from 'ai'

const url = process.argv[2]
const warnings = []
for (const level of ['warn', 'error']) console[level] = (...words) => warnings.push(words.map(String).join(' '))
const question = 'What is the state of INC-4821, and of INC-4822?'

async function agUi() {
  const agent = new HttpAgent({ url: `${url}/v1/agent`, threadId: 'thread-1' })
  agent.messages = [{ id: 'm1', role: 'user', content: question }]
  const events = []
  await agent.runAgent({ runId: 'ag-ui-run' }, { onEvent: ({ event }) => { events.push(event.type) } })
  return { events, messages: agent.messages.map(({ role, content, toolCalls }) => ({ role, content, calls: toolCalls?.length ?? 0 })) }
}

async function vercel() {
  const response = await fetch(`${url}/v1/agent?format=vercel`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ threadId: 't', runId: 'vercel-run', messages: [{ id: 'm1', role: 'user', content: question }] }),
  })
  const chunks = parseJsonEventStream({ stream: response.body, schema: uiMessageChunkSchema })
  const invalid = []
  const stream = chunks.pipeThrough(new TransformStream({
    transform(part, controller) {
      if (part.success) controller.enqueue(part.value)
      else invalid.push(String(part.error))
    },
  }))
  let last
  const errors = []
  for await (const message of readUIMessageStream({ stream, onError: (error) => errors.push(String(error)) })) last = message
  return { invalid, errors, parts: last?.parts ?? [], metadata: last?.metadata }
}

const told = { agUi: await agUi(), vercel: await vercel(), warnings }
console.log(JSON.stringify(told))
