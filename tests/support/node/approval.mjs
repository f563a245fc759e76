// The official AG-UI client through a run that asks for approval and the run that goes on from it, and
// the Vercel client's own schema over such a run; prints what came as JSON.
//
// usage: node approval.mjs GATEWAY_URL
import { HttpAgent } from '@ag-ui/client'
import { parseJsonEventStream, uiMessageChunkSchema } from 'ai'

const url = process.argv[2]
const warnings = []
for (const level of ['warn', 'error']) console[level] = (...words) => warnings.push(words.map(String).join(' '))

const agent = new HttpAgent({ url: `${url}/v1/agent`, threadId: 'thread-1' })
agent.messages = [{ id: 'm1', role: 'user', content: 'Restart it.' }]
await agent.runAgent({ runId: 'asks' })
const asked = agent.pendingInterrupts.map((each) => each.metadata.toolCallName)
const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: 'resolved', payload: { approved: true } }))
await agent.runAgent({ runId: 'goes-on', resume })
const messages = agent.messages.map(({ role, content }) => ({ role, content }))

const response = await fetch(`${url}/v1/agent?format=vercel`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ threadId: 't', runId: 'vercel', messages: [{ id: 'm1', role: 'user', content: 'hi' }] }),
})
const invalid = []
for await (const part of parseJsonEventStream({ stream: response.body, schema: uiMessageChunkSchema })) {
  if (!part.success) invalid.push(String(part.error))
}
console.log(JSON.stringify({ warnings, asked, messages, invalid }))
